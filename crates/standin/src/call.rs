//! A request as the engine takes it, and the reading of a token request out of it: JSON or form body, client
//! authentication by header or body (RFC 6749 §2.3, §3.2).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// One HTTP request.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Method, in upper case.
    pub method: &'a str,
    /// Path, with the query if there is one.
    pub target: &'a str,
    /// Headers; names are compared without regard to case.
    pub headers: &'a [(&'a str, &'a str)],
    /// The whole body.
    pub body: &'a [u8],
}

impl<'a> Call<'a> {
    /// The path without query.
    pub fn path(&self) -> &'a str {
        self.target.split_once('?').map_or(self.target, |(path, _)| path)
    }

    /// The value of a query parameter, decoded.
    pub fn query(&self, name: &str) -> Option<String> {
        let (_, query) = self.target.split_once('?')?;
        let mut pairs = url::form_urlencoded::parse(query.as_bytes());
        pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }

    /// Whether a header, in any of its lines, lists `value` between commas.
    pub fn lists(&self, name: &str, value: &str) -> bool {
        let lines = self.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        lines.flat_map(|(_, line)| line.split(',')).any(|entry| entry.trim() == value)
    }

    /// The media type of the body, in lower case and without parameters.
    pub fn media_type(&self) -> Option<String> {
        let value = self.header("content-type")?;
        Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
    }
}

/// A token request, whatever encoding it came in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenRequest {
    /// `grant_type`.
    pub grant_type: String,
    /// `refresh_token`.
    pub refresh_token: Option<String>,
    /// `assertion` of the JWT bearer grant.
    pub assertion: Option<String>,
    /// `scope`.
    pub scope: Option<String>,
    /// `client_id` of the body.
    pub client_id: Option<String>,
    /// `client_secret` of the body.
    pub client_secret: Option<String>,
    /// Name and password of `Authorization: Basic`, decoded.
    pub basic: Option<(String, String)>,
    /// Every value of the capability header.
    pub capabilities: Vec<String>,
    /// All other members of the body.
    pub others: BTreeMap<String, String>,
    /// The body is a form.
    pub form: bool,
}

/// Why a body is no token request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// An encoding that is not spoken here.
    Encoding,
    /// A body that is not of the encoding that it claims, or has no `grant_type`.
    Body,
    /// A parameter that stands there twice (RFC 6749 §3.2).
    Twice,
}

impl TokenRequest {
    /// A refresh exchange by a public client.
    pub fn refresh(refresh_token: impl Into<String>) -> Self {
        Self {
            grant_type: "refresh_token".into(),
            refresh_token: Some(refresh_token.into()),
            ..Self::default()
        }
    }

    /// The same request in the name of a public client.
    pub fn by(mut self, client_id: impl Into<String>) -> Self {
        self.client_id = Some(client_id.into());
        self
    }

    /// The same request with a value in the capability header.
    pub fn with_capability(mut self, value: impl Into<String>) -> Self {
        self.capabilities.push(value.into());
        self
    }

    pub(crate) fn read(
        call: &Call<'_>,
        capability_header: Option<&str>,
        json: bool,
        form: bool,
    ) -> Result<Self, Unreadable> {
        let mut request = match call.media_type().as_deref() {
            Some("application/json") if json => from_json(call.body)?,
            Some("application/x-www-form-urlencoded") if form => from_form(call.body)?,
            Some(_) | None => return Err(Unreadable::Encoding),
        };
        if request.grant_type.is_empty() {
            return Err(Unreadable::Body);
        }
        request.basic = call.header("authorization").and_then(basic);
        if let Some(name) = capability_header {
            let lines = call.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
            request.capabilities =
                lines.flat_map(|(_, line)| line.split(',')).map(|entry| entry.trim().to_owned()).collect();
        }
        Ok(request)
    }

    fn slot(&mut self, name: &str) -> Option<&mut Option<String>> {
        match name {
            "refresh_token" => Some(&mut self.refresh_token),
            "assertion" => Some(&mut self.assertion),
            "scope" => Some(&mut self.scope),
            "client_id" => Some(&mut self.client_id),
            "client_secret" => Some(&mut self.client_secret),
            _ => None,
        }
    }
}

fn from_json(body: &[u8]) -> Result<TokenRequest, Unreadable> {
    let Ok(Value::Object(members)) = serde_json::from_slice(body) else {
        return Err(Unreadable::Body);
    };
    let mut request = TokenRequest::default();
    for (name, value) in members {
        let Value::String(value) = value else { continue };
        if name == "grant_type" {
            request.grant_type = value;
        } else if let Some(slot) = request.slot(&name) {
            *slot = Some(value);
        } else {
            request.others.insert(name, value);
        }
    }
    Ok(request)
}

fn from_form(body: &[u8]) -> Result<TokenRequest, Unreadable> {
    let mut request = TokenRequest { form: true, ..TokenRequest::default() };
    for (name, value) in url::form_urlencoded::parse(body) {
        if name == "grant_type" {
            if !request.grant_type.is_empty() {
                return Err(Unreadable::Twice);
            }
            request.grant_type = value.into_owned();
        } else {
            let before = match request.slot(&name) {
                Some(slot) => slot.replace(value.into_owned()),
                None => request.others.insert(name.into_owned(), value.into_owned()),
            };
            if before.is_some() {
                return Err(Unreadable::Twice);
            }
        }
    }
    Ok(request)
}

/// Name and password, each form-decoded as RFC 6749 §2.3.1 wants.
fn basic(header: &str) -> Option<(String, String)> {
    let (scheme, encoded) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (name, password) = text.split_once(':')?;
    Some((form_decoded(name), form_decoded(password)))
}

fn form_decoded(text: &str) -> String {
    // A pair of which only the value is wanted: its decoding is that of a form.
    let pair = ["v=", &text.replace('&', "%26")].concat();
    url::form_urlencoded::parse(pair.as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content_type: &str, body: &str) -> Result<TokenRequest, Unreadable> {
        let call = Call {
            method: "POST",
            target: "/token?x=%20y",
            headers: &[("Content-Type", content_type), ("X-Cap", "a, b"), ("x-cap", "c")],
            body: body.as_bytes(),
        };
        assert_eq!(call.query("x").as_deref(), Some(" y"));
        TokenRequest::read(&call, Some("x-cap"), true, true)
    }

    #[test]
    fn both_encodings_say_the_same() {
        let form =
            read("application/x-www-form-urlencoded", "grant_type=refresh_token&refresh_token=a%2Bb+c&z=1");
        let json = read(
            "application/json; charset=utf-8",
            r#"{"grant_type":"refresh_token","refresh_token":"a+b c","z":1}"#,
        );
        let (form, json) = (form.unwrap(), json.unwrap());
        assert_eq!((form.form, form.others["z"].as_str()), (true, "1"));
        let request = TokenRequest { form: false, others: BTreeMap::new(), ..form };
        assert_eq!(request, json);
        assert_eq!(request.refresh_token.as_deref(), Some("a+b c"));
        assert_eq!(request.capabilities, ["a", "b", "c"]);
    }

    #[test]
    fn unreadable_bodies_are_told_apart() {
        assert_eq!(read("text/plain", "grant_type=x"), Err(Unreadable::Encoding));
        assert_eq!(read("application/json", "grant_type=x"), Err(Unreadable::Body));
        assert_eq!(read("application/json", "{}"), Err(Unreadable::Body));
        let twice = "grant_type=x&refresh_token=a&refresh_token=b";
        assert_eq!(read("application/x-www-form-urlencoded", twice), Err(Unreadable::Twice));
    }

    #[test]
    fn basic_is_form_decoded() {
        let header = ["Basic ", &STANDARD.encode("id%3A1:a%26b&c+d")].concat();
        assert_eq!(basic(&header), Some(("id:1".into(), "a&b&c d".into())));
        assert_eq!(basic("Bearer x"), None);
    }
}
