//! The little of URLs that the config needs: scheme, user, host, port, path.

/// A URL's parts. The password is only noticed, never kept.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) scheme: String,
    pub(super) user: String,
    pub(super) has_password: bool,
    pub(super) host: String,
    pub(super) port: Option<u16>,
    /// With its slash, or empty.
    pub(super) path: String,
    pub(super) has_query: bool,
}

/// Parses `scheme://[user[:password]@]host[:port][/path][?query]`. The error never repeats the text.
pub(super) fn parse(text: &str) -> Result<Url, &'static str> {
    let (scheme, rest) = text.split_once("://").ok_or("no `://`")?;
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("a blank or control character");
    }
    let (authority, tail) = match rest.rfind('@') {
        // A password may hold `/` or `?`: only what stands behind the last `@` ends the authority.
        Some(at) => {
            let end = rest[at..].find(['/', '?', '#']).map_or(rest.len(), |i| at + i);
            rest.split_at(end)
        }
        None => rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len())),
    };
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, has_password) = match user.split_once(':') {
        Some((user, _)) => (user, true),
        None => (user, false),
    };
    let (host, port) = host_port(host)?;
    let path_end = tail.find(['?', '#']).unwrap_or(tail.len());
    Ok(Url {
        scheme: scheme.to_ascii_lowercase(),
        user: decode(user).ok_or("a `%` without two hexadecimal digits in the user")?,
        has_password,
        host,
        port,
        path: tail[..path_end].to_owned(),
        has_query: path_end < tail.len(),
    })
}

/// Parses `host`, `host:port`, `[::1]:port`.
pub(super) fn host_port(text: &str) -> Result<(String, Option<u16>), &'static str> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or("`[` without `]`")?;
        host.parse::<std::net::Ipv6Addr>().map_err(|_| "not an IPv6 address in `[…]`")?;
        (host, port)
    } else {
        let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
        if host.is_empty() {
            return Err("no host");
        }
        if !host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')) {
            return Err("a character that no host name has");
        }
        (host, port)
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        Some(port) => {
            Some(port.parse::<u16>().ok().filter(|p| *p > 0).ok_or("a port is a number from 1 to 65535")?)
        }
        None => return Err("text between `]` and the port"),
    };
    Ok((host.to_owned(), port))
}

/// Whether a host is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Percent-decoding to UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b == b'%' {
            let digit = |b: Option<u8>| char::from(b?).to_digit(16).and_then(|d| u8::try_from(d).ok());
            out.push(digit(bytes.next())? << 4 | digit(bytes.next())?);
        } else {
            out.push(b);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn parts() {
        let url = parse("mysql://a%40b:p/w@[::1]:3307/x?y").unwrap();
        assert_eq!((url.user.as_str(), url.has_password, url.host.as_str()), ("a@b", true, "::1"));
        assert_eq!((url.port, url.path.as_str(), url.has_query), (Some(3307), "/x", true));
        let url = parse("redis://cache").unwrap();
        assert_eq!((url.host.as_str(), url.port, url.path.as_str()), ("cache", None, ""));
        for wrong in
            ["", "cache", "redis://", "redis://h:0", "redis://h:x", "redis://[::1", "redis://[x]", "r://a b"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn loopback() {
        assert!(is_loopback("127.0.0.3") && is_loopback("::1") && is_loopback("LOCALHOST"));
        assert!(!is_loopback("db1") && !is_loopback("10.0.0.1"));
    }
}
