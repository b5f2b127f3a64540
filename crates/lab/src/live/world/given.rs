//! Servers that were given: their addresses and accounts.
//!
//! Guarantees: an address that is to be kept or shown has neither user nor password. May depend on nothing of ours.

use super::super::stage::quoted;

/// Servers that are there already: faults that need their processes can't be had.
///
/// ```no_run
/// use rowbust_lab::live::{Given, World, WorldOptions};
/// # async fn example() -> Result<(), rowbust_lab::live::LiveError> {
/// let given = Given { mysql: "mysql://lab:secret@db1:3306".to_owned(), redis: "redis://cache:6379".to_owned() };
/// let world = World::start(WorldOptions { given: Some(given), ..WorldOptions::new("target/debug/rowbust") }).await?;
/// let (database, redis) = world.versions();
/// println!("{database}, {redis}");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Given {
    /// `mysql://USER:PASSWORD@HOST:PORT`; the account makes and drops schemas, and follows the binlog.
    pub mysql: String,
    /// `redis://HOST:PORT`.
    pub redis: String,
}

/// The daemon takes no password in an address.
pub(super) fn given_redis(url: &str, kept: bool) -> String {
    let bare = redis::parse_redis_url(url).map(|mut bare| {
        // Refused only where there is no host.
        _ = bare.set_username("").and(bare.set_password(None));
        bare.to_string()
    });
    let client = redis::Client::open(url).ok();
    let account = client.as_ref().map(|client| client.get_connection_info().redis_settings());
    let mut fields = format!("url: {}", quoted(bare.as_deref().unwrap_or(url)));
    let given = [
        ("username", account.and_then(|account| account.username())),
        ("password", account.and_then(|account| account.password())),
    ];
    for (name, value) in given {
        if let Some(value) = value {
            fields += &format!(", {name}: {}", quoted(if kept { "****" } else { value }));
        }
    }
    format!("{{ {fields} }}")
}

/// An address, or an argument that has one in it, with `****` for user and password.
///
/// ```
/// use rowbust_lab::live::without_account;
/// assert_eq!(without_account("--redis=redis://lab:secret@cache:6379"), "--redis=redis://****@cache:6379");
/// ```
#[must_use]
pub fn without_account(text: &str) -> String {
    match text.split_once("://").zip(text.rsplit_once('@')) {
        Some(((scheme, _), (_, host))) => format!("{scheme}://****@{host}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_redis_keeps_its_account_beside_its_address() {
        let of = |url: &str| (given_redis(url, false), given_redis(url, true));
        let plain = "{ url: \"redis://h:6380/2\" }".to_owned();
        assert_eq!(of("redis://h:6380/2"), (plain.clone(), plain));
        let (used, kept) = of("redis://lab:p%40ss@h:6380/2");
        assert_eq!(used, "{ url: \"redis://h:6380/2\", username: \"lab\", password: \"p@ss\" }");
        assert_eq!(kept, "{ url: \"redis://h:6380/2\", username: \"****\", password: \"****\" }");
    }

    #[test]
    fn addresses_lose_their_accounts() {
        for (text, shown) in [
            ("--mysql=mysql://u:p@ss@h:3306", "--mysql=mysql://****@h:3306"),
            ("redis://:secret@h/0", "redis://****@h/0"),
            ("redis://h:6379", "redis://h:6379"),
            ("--quick", "--quick"),
        ] {
            assert_eq!(without_account(text), shown);
        }
    }
}
