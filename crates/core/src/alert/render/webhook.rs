//! Any receiver: the alert as JSON, signed as Standard Webhooks has it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use serde_json::json;
use sha2::Sha256;

use crate::alert::Alert;
use crate::alert::sink::{SigningKey, SinkUrl};

use super::OutgoingRequest;

/// The request. Its id stays when it is sent again; its timestamp does not.
pub(super) fn request(url: &SinkUrl, key: &SigningKey, alert: &Alert, now: Timestamp) -> OutgoingRequest {
    let kind = format!("evergrant.alert.{}", alert.state.as_str());
    let mut request =
        OutgoingRequest::json(url, &json!({ "type": kind, "timestamp": alert.at, "data": alert }));
    let at = now.as_second();
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose()).expect("HMAC takes keys of any length");
    mac.update(format!("{}.{at}.", alert.id).as_bytes());
    mac.update(&request.body);
    let signature = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    let headers = [
        ("webhook-id", alert.id.clone()),
        ("webhook-timestamp", at.to_string()),
        ("webhook-signature", signature),
    ];
    request.headers.extend(headers.map(|(name, value)| (name.to_owned(), value)));
    request
}
