//! Who may ask what of the admin server.
//!
//! Guarantees: what changes anything needs the token of the config. Without one in the config it is allowed on a loopback listener
//! alone, and there not to a page of another origin. What shows keys needs the token unless the listener is on loopback. A page whose
//! name was made to point at this host (DNS rebinding) reads nothing from a loopback listener. Tokens are compared in constant time
//! and are in no answer and no log. May depend on `config`.
//!
//! Why a header of our own: a browser sends a cross-origin POST without asking only if it has no header but the "simple" ones
//! (Fetch standard, "CORS-safelisted request-header"). We answer no preflight, so a page of another origin can't send it; nor can it
//! send `Authorization`.

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use secrecy::ExposeSecret as _;

use super::{Hub, error::ApiError};
use crate::config::{self, MIN_TOKEN, Password};

/// The header that whatever changes anything must have, if it has no token; any value.
pub const HEADER: HeaderName = HeaderName::from_static("x-rowbust");

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Health, metrics, the state: no key is in it.
    Look,
    /// Keys are in the answer.
    Keys,
    /// It changes something.
    Change,
}

/// The rules of one listener.
#[derive(Debug, Clone)]
pub struct Access {
    local: bool,
    token: Password,
}

impl Access {
    /// For a listener that got this address.
    pub fn new(listening: SocketAddr, config: &config::Admin) -> Self {
        Self { local: listening.ip().is_loopback(), token: config.token.clone() }
    }

    /// Whether a request with these headers may have what it asks for.
    ///
    /// # Errors
    /// What it is told instead.
    pub async fn check(&self, need: Need, headers: &HeaderMap) -> Result<(), ApiError> {
        let presented = presented(headers);
        if let Some(presented) = presented
            && need != Need::Look
        {
            return self.check_token(presented).await;
        }
        if self.local && !is_own_host(headers) {
            return Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "admin.host",
                "this listener is for this host alone, and the request names another",
                "ask by an address or as `localhost`, e.g. http://127.0.0.1:8321",
            ));
        }
        match need {
            Need::Look => Ok(()),
            Need::Keys if self.local => Ok(()),
            Need::Keys | Need::Change if !matches!(self.token, Password::Empty) => Err(ApiError::new(
                StatusCode::UNAUTHORIZED,
                "admin.token_required",
                "this needs the token of `admin.token` or `admin.token_file`",
                "send the header `Authorization: Bearer TOKEN`; rowbust's own commands take it from the config",
            )),
            Need::Keys | Need::Change if !self.local => Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "admin.no_token",
                "the listener isn't on loopback, and the config has no token: nothing is changed and no key shown here",
                "set `admin.token_file`, or listen at 127.0.0.1",
            )),
            Need::Keys | Need::Change => check_origin(headers),
        }
    }

    async fn check_token(&self, presented: &[u8]) -> Result<(), ApiError> {
        let from_file;
        let token = match &self.token {
            Password::Empty => b"".as_slice(),
            Password::Value(secret) => secret.expose_secret().as_bytes(),
            Password::File(path) => {
                from_file = tokio::fs::read(path).await.map_err(|error| {
                    ApiError::new(
                        StatusCode::INTERNAL_SERVER_ERROR,
                        "admin.token_file",
                        format!("`admin.token_file` can't be read: {error}"),
                        "let the daemon's user read it",
                    )
                })?;
                from_file.trim_ascii_end()
            }
        };
        if token.len() >= MIN_TOKEN && same(token, presented) {
            return Ok(());
        }
        Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "admin.bad_token",
            "the token isn't the daemon's",
            format!(
                "use that of `admin.token` or `admin.token_file`; it has at least {MIN_TOKEN} characters"
            ),
        ))
    }
}

/// `Authorization: Bearer TOKEN`
fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Takes as long whichever bytes differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    let differ = a.iter().zip(b).fold(a.len() ^ b.len(), |differ, (a, b)| differ | usize::from(a ^ b));
    std::hint::black_box(differ) == 0
}

/// A name that somebody else's DNS may answer isn't. Without the header it is no browser.
fn is_own_host(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    host.to_str().is_ok_and(|host| {
        let name = host_name(host);
        name.eq_ignore_ascii_case("localhost")
            || name.to_ascii_lowercase().ends_with(".localhost")
            || name.parse::<IpAddr>().is_ok()
    })
}

/// Without port and brackets.
fn host_name(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

/// No page of another origin asks.
fn check_origin(headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    // Fetch metadata (https://www.w3.org/TR/fetch-metadata/): browsers say where the request comes from.
    let site = text(&HeaderName::from_static("sec-fetch-site"));
    let own = |origin: &str| {
        let host = text(&header::HOST).unwrap_or_default();
        origin.split_once("://").is_some_and(|(_, origin)| origin.eq_ignore_ascii_case(host))
    };
    if site.is_some_and(|site| !matches!(site, "same-origin" | "none"))
        || text(&header::ORIGIN).is_some_and(|origin| !own(origin))
    {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "admin.cross_site",
            "a page of another origin asks",
            "use the daemon's own page, or set `admin.token_file` and send the token",
        ));
    }
    if !headers.contains_key(HEADER) {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "admin.header_required",
            "without a token, what changes anything needs the header `X-Rowbust`",
            "send `X-Rowbust: 1`, which no page of another origin can",
        ));
    }
    Ok(())
}

async fn guard(need: Need, hub: Hub, request: Request, next: Next) -> Response {
    match hub.access().check(need, request.headers()).await {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    }
}

/// Before whatever is open.
pub async fn look(State(hub): State<Hub>, request: Request, next: Next) -> Response {
    guard(Need::Look, hub, request, next).await
}

/// Before what shows keys.
pub async fn keys(State(hub): State<Hub>, request: Request, next: Next) -> Response {
    guard(Need::Keys, hub, request, next).await
}

/// Before what changes anything.
pub async fn change(State(hub): State<Hub>, request: Request, next: Next) -> Response {
    guard(Need::Change, hub, request, next).await
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const TOKEN: &str = "0123456789abcdef0123";

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        all.iter().map(pair).collect()
    }

    async fn answer(listen: &str, token: &str, need: Need, all: &[(&'static str, &str)]) -> &'static str {
        let token = if token.is_empty() { Password::Empty } else { Password::Value(token.into()) };
        let listen = listen.parse().unwrap();
        let access = Access::new(listen, &config::Admin { listen, token });
        access.check(need, &headers(all)).await.map_or_else(|error| error.code, |()| "ok")
    }

    #[tokio::test]
    async fn each_case() {
        use Need::{Change, Keys, Look};
        let (local, open) = ("127.0.0.1:8321", "0.0.0.0:8321");
        let (host, name) = (("host", "127.0.0.1:8321"), ("host", "rebound.example:8321"));
        let own = ("x-rowbust", "1");
        let right = format!("Bearer {TOKEN}");
        let (right, wrong) =
            (("authorization", right.as_str()), ("authorization", "Bearer 0123456789abcdef0124"));
        for (listen, token, need, all, expected) in [
            // On loopback without a token: this host's own programs and page.
            (local, "", Look, &[host][..], "ok"),
            (local, "", Keys, &[host], "ok"),
            (local, "", Change, &[host, own], "ok"),
            (local, "", Change, &[host], "admin.header_required"),
            (local, "", Change, &[host, own, ("origin", "http://127.0.0.1:8321")], "ok"),
            (local, "", Change, &[host, own, ("origin", "https://evil.example")], "admin.cross_site"),
            (local, "", Change, &[host, own, ("origin", "null")], "admin.cross_site"),
            (local, "", Change, &[host, own, ("sec-fetch-site", "cross-site")], "admin.cross_site"),
            (local, "", Change, &[host, own, ("sec-fetch-site", "same-origin")], "ok"),
            (local, "", Change, &[("host", "localhost:8321"), own], "ok"),
            (local, "", Change, &[("host", "[::1]:8321"), own], "ok"),
            // Another name that points here.
            (local, "", Look, &[name], "admin.host"),
            (local, "", Keys, &[name], "admin.host"),
            (local, "", Change, &[name, own], "admin.host"),
            (local, "", Change, &[("host", "localhost.evil.example"), own], "admin.host"),
            // A token that nobody has set is none.
            (local, "", Change, &[host, own, ("authorization", "Bearer ")], "admin.bad_token"),
            (open, "", Change, &[host, own], "admin.no_token"),
            (open, "", Keys, &[host], "admin.no_token"),
            (open, "", Look, &[name], "ok"),
            // With a token: it, and nothing else.
            (local, TOKEN, Keys, &[host], "ok"),
            (local, TOKEN, Change, &[host, own], "admin.token_required"),
            (local, TOKEN, Change, &[host, wrong], "admin.bad_token"),
            (local, TOKEN, Change, &[host, right], "ok"),
            (open, TOKEN, Keys, &[host], "admin.token_required"),
            (open, TOKEN, Keys, &[name, right], "ok"),
            (open, TOKEN, Change, &[name, right], "ok"),
            (open, TOKEN, Change, &[name, wrong], "admin.bad_token"),
            (open, "short", Change, &[name, ("authorization", "Bearer short")], "admin.bad_token"),
        ] {
            assert_eq!(
                answer(listen, token, need, all).await,
                expected,
                "{listen} {token:?} {need:?} {all:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_token_file_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, format!("{TOKEN}\n")).unwrap();
        let listen: SocketAddr = "0.0.0.0:1".parse().unwrap();
        let access = Access::new(listen, &config::Admin { listen, token: Password::File(path.clone()) });
        let right = format!("Bearer {TOKEN}");
        let all = headers(&[("authorization", &right)]);
        access.check(Need::Change, &all).await.unwrap();
        std::fs::write(&path, format!("{TOKEN}x")).unwrap();
        assert_eq!(access.check(Need::Change, &all).await.unwrap_err().code, "admin.bad_token");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(access.check(Need::Change, &all).await.unwrap_err().code, "admin.token_file");
    }

    #[test]
    fn names_of_hosts() {
        for (host, name) in
            [("a:1", "a"), ("a", "a"), ("[::1]:2", "::1"), ("[::1]", "::1"), ("1.2.3.4:5", "1.2.3.4")]
        {
            assert_eq!(host_name(host), name);
        }
        assert!(same(b"abc", b"abc") && !same(b"abc", b"abd") && !same(b"abc", b"ab") && !same(b"", b"a"));
    }
}
