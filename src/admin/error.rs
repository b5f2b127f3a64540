//! What a request that isn't answered is told: a stable code, what is wrong, what to do. May depend on nothing of ours.

use axum::{
    Json,
    extract::{
        FromRequest, FromRequestParts, Request,
        rejection::{JsonRejection, QueryRejection},
    },
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;
use serde_json::json;

/// An error answer: `{"schema_version": 1, "error": {"code", "message", "help"}}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// Stable name: scripts may match it.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: String,
}

impl ApiError {
    /// Made of its parts.
    pub fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self { status, code, message: message.into(), help: help.into() }
    }

    /// 400: the request itself is wrong.
    pub fn bad(code: &'static str, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message, help)
    }

    /// 409: it doesn't fit the daemon's state.
    pub fn conflict(code: &'static str, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message, help)
    }

    /// 503: a part that it needs can't answer now.
    pub fn unavailable(code: &'static str, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message, help)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self { status, code, message, help } = self;
        let body = json!({
            "schema_version": 1,
            "error": { "code": code, "message": message, "help": help },
        });
        (status, Json(body)).into_response()
    }
}

/// As [`Json`], with an [`ApiError`] for what can't be read.
#[derive(Debug)]
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let read = Json::from_request(request, state).await;
        read.map(|Json(value)| Self(value)).map_err(|refused: JsonRejection| {
            let help = "send a JSON object, `{}` if there is nothing to say, with `Content-Type: application/json`; docs/admin-api.md lists its \
                        fields";
            ApiError::new(refused.status(), "admin.body", refused.body_text(), help)
        })
    }
}

/// As [`axum::extract::Query`], in the same way.
#[derive(Debug)]
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let read = axum::extract::Query::from_request_parts(parts, state).await;
        read.map(|axum::extract::Query(value)| Self(value)).map_err(|refused: QueryRejection| {
            ApiError::new(
                refused.status(),
                "admin.query",
                refused.body_text(),
                "docs/admin-api.md lists the fields",
            )
        })
    }
}
