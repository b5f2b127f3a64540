//! `GET /`: the page for people, in `src/admin/page/`, and what it loads.
//!
//! Guarantees: it has no data of its own but asks `/status` and `/events` as anybody may, and asks nobody else. Its policy lets it run
//! and load only these files, makes text into markup nowhere (`require-trusted-types-for`), and lets no other page frame it. May depend
//! on nothing of ours.

use axum::{
    Router,
    http::header::{self, HeaderName},
    response::IntoResponse,
    routing::get,
};

/// <https://www.w3.org/TR/CSP3/>, <https://w3c.github.io/trusted-types/dist/spec/>
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Path, type, content.
const FILES: [(&str, &str, &str); 7] = [
    ("/", HTML, include_str!("page/index.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("/page.js", SCRIPT, include_str!("page/page.js")),
    ("/show.js", SCRIPT, include_str!("page/show.js")),
    ("/chart.js", SCRIPT, include_str!("page/chart.js")),
    ("/dom.js", SCRIPT, include_str!("page/dom.js")),
    ("/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
];

/// For a daemon that is active and for one that waits.
pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.into_iter().fold(Router::new(), |router, (path, kind, content)| {
        router.route(path, get(move || async move { file(kind, content) }))
    })
}

fn file(kind: &'static str, content: &'static str) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        // A newer daemon has a newer page.
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    (headers, content)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What would need a looser policy, or ask somebody else, or make markup of text.
    #[test]
    fn nothing_inline_nothing_from_elsewhere() {
        for (path, _, content) in FILES {
            for never in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                " style=\"",
                "onclick=",
                "onload=",
                "onerror=",
                "javascript:",
                "https://",
                "@import",
                "<style",
                "url(",
            ] {
                assert!(!content.contains(never), "{path}: {never}");
            }
            let elsewhere = content.replace("http://www.w3.org/2000/svg", "");
            assert!(!elsewhere.contains("http://") && !elsewhere.contains("\"//"), "{path}");
        }
        assert!(!POLICY.contains("unsafe"));
    }

    #[test]
    fn all_that_is_named_is_served() {
        let served: Vec<&str> = FILES.iter().filter_map(|(path, ..)| path.strip_prefix('/')).collect();
        for (path, _, content) in FILES {
            let named = content.split(['"', '\'']).map(|part| part.trim_start_matches("./"));
            for name in named.filter(|name| [".js", ".css", ".svg"].iter().any(|end| name.ends_with(end))) {
                assert!(served.contains(&name), "{path} names {name}");
            }
        }
    }
}
