//! Errors as RFC 9457 problem documents.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::gate::Writer;
use crate::lsn::Lsn;

/// A problem document (RFC 9457).
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Problem {
    /// There is no more to it than the status says.
    #[serde(rename = "type")]
    kind: &'static str,
    /// What the status means.
    title: &'static str,
    /// The status.
    #[serde(serialize_with = "as_number")]
    #[cfg_attr(test, schemars(with = "u16"))]
    status: StatusCode,
    /// What is wrong, for a person.
    detail: String,
    /// The fence that stands already.
    #[serde(skip_serializing_if = "Option::is_none")]
    target_lsn: Option<Lsn>,
    /// Who must stop writing first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    writers: Vec<Writer>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Problem {
        let title = status.canonical_reason().unwrap_or("Error");
        let detail = detail.into();
        Problem { kind: "about:blank", title, status, detail, target_lsn: None, writers: Vec::new() }
    }

    pub(super) fn with_fence(self, target_lsn: Lsn) -> Problem {
        Problem { target_lsn: Some(target_lsn), ..self }
    }

    pub(super) fn with_writers(self, writers: Vec<Writer>) -> Problem {
        Problem { writers, ..self }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self)).into_response();
        let content_type = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        response
    }
}

fn as_number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}
