//! `/runbook/CODE.md`: what alerts link to, in the binary, so that it is there when it is needed.

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use evergrant_core::Reason;

use crate::admin::Problem;

/// The pages.
#[derive(rust_embed::Embed)]
#[folder = "../../docs/runbook"]
struct Pages;

/// One page as Markdown, which browsers show as text.
pub(super) async fn page(name: Result<Path<String>, PathRejection>) -> Response {
    let page = name.ok().and_then(|Path(name)| Pages::get(&name));
    let Some(page) = page else {
        let detail = "there is no such page; /runbook/README.md lists all";
        return Problem::with(StatusCode::NOT_FOUND, Reason::NotFound, detail).into_response();
    };
    let mut response = page.data.into_owned().into_response();
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}
