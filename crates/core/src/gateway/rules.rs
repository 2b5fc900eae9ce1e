//! A provider as the gateway sees it, as data: routes, paths, how a source is injected, how an answer is read.

use super::answer::Meaning;
use super::error::ErrorShape;

/// Everything of a provider that the gateway needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// What is taken off a request's path: `/v1/anthropic`. No slash at its end.
    pub route: String,
    /// The paths that are forwarded. Whatever is not listed is 404.
    pub paths: Vec<PathRule>,
    /// How an access token is injected.
    pub oauth: Injection,
    /// How an API key is injected.
    pub api_key: Injection,
    /// Headers that are added where the client sent none: name in lower case, and value.
    pub defaults: Vec<(String, String)>,
    /// The shape of errors of our own.
    pub errors: ErrorShape,
    /// What answers say; the first that matches.
    pub answers: Vec<AnswerRule>,
    /// What people set in their clients to our key: `ANTHROPIC_API_KEY`.
    pub client_variable: String,
    /// The environment variable that may hold the fallback key.
    pub fallback_variable: Option<String>,
}

/// A header with a secret, and what goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injection {
    /// The header, in lower case.
    pub header: String,
    /// What stands before the secret: `Bearer `.
    pub before: String,
    /// A header, in lower case, and what is appended to its list.
    pub append: Option<(String, String)>,
}

/// Paths that are forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathRule {
    /// Only this method; `None`: every one.
    pub method: Option<String>,
    /// The path behind the route.
    pub path: String,
    /// What lies below it too.
    pub below: bool,
    /// The longest request body, in bytes.
    pub body_limit: u64,
    /// The content type that such a request has to have.
    pub content_type: Option<ContentType>,
}

/// A content type that is put in where a bare client sent none, or that of a form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentType(pub String);

/// How one status is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerRule {
    /// The status.
    pub status: u16,
    /// The body holds one of these, in lower case; empty: whatever it holds.
    pub says: Vec<String>,
    /// Then it means this.
    pub meaning: Meaning,
}

/// What a request's path comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route<'a> {
    /// Forwarded: the rule's index, and the path at the provider.
    Forwarded(usize, &'a str),
    /// Below the route, but not lent a key.
    NotForwarded,
    /// Not the gateway's.
    Elsewhere,
}

impl Rules {
    /// Where a request goes. `path` is as the client sent it, without its query.
    pub fn route<'a>(&self, method: &str, path: &'a str) -> Route<'a> {
        let Some(rest) = self.below_route(path) else {
            return Route::Elsewhere;
        };
        // An answer to TRACE is the request as it came there: with the secret that was put in.
        if !plain(rest) || method.eq_ignore_ascii_case("TRACE") {
            return Route::NotForwarded;
        }
        let allowed = |rule: &PathRule| {
            let below = |rest: &str| rule.below && rest.starts_with('/');
            rule.method.as_deref().is_none_or(|only| only == method)
                && rest.strip_prefix(rule.path.as_str()).is_some_and(|rest| rest.is_empty() || below(rest))
        };
        match self.paths.iter().position(allowed) {
            Some(index) => Route::Forwarded(index, rest),
            None => Route::NotForwarded,
        }
    }

    /// The path at the provider, if it is one below the route at all.
    pub fn below_route<'a>(&self, path: &'a str) -> Option<&'a str> {
        match path.strip_prefix(self.route.as_str())? {
            "" => Some("/"),
            rest => rest.starts_with('/').then_some(rest),
        }
    }

    /// Whether an answer of this status tells anything about the source.
    pub fn tells(&self, status: u16) -> bool {
        self.answers.iter().any(|rule| rule.status == status)
    }

    /// What an answer says. `body` is decoded; what could not be decoded says nothing.
    pub fn meaning(&self, status: u16, body: &str) -> Meaning {
        let body = body.to_ascii_lowercase();
        let holds = |rule: &&AnswerRule| {
            rule.status == status
                && (rule.says.is_empty() || rule.says.iter().any(|said| body.contains(said.as_str())))
        };
        self.answers.iter().find(holds).map_or(Meaning::Served, |rule| rule.meaning)
    }
}

/// Nobody on the way to the provider reads this path as another one: no empty or dot segment, with parameters or without,
/// no backslash, and none of them in percent-encoding.
fn plain(path: &str) -> bool {
    let encoded = |at: usize| {
        let code = path.as_bytes().get(at + 1..at + 3);
        code.is_some_and(|code| {
            let digit = |byte: u8| (byte as char).to_digit(16);
            // What stands for itself, and what separates or ends a path, is never encoded in an honest one.
            let byte = digit(code[0]).zip(digit(code[1])).map(|(high, low)| high * 16 + low);
            byte.is_some_and(|byte| {
                let byte = u8::try_from(byte).unwrap_or(0);
                !(byte.is_ascii_alphanumeric() || b"-._~/\\%?#;".contains(&byte) || byte.is_ascii_control())
            })
        })
    };
    let mut segments = path.split('/').skip(1).peekable();
    let mut ends_well = true;
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        // Some take parameters off before they look (RFC 3986 §3.3).
        let bare = segment.split(';').next().unwrap_or_default();
        ends_well &= !(bare == "." || bare == ".." || (bare.is_empty() && !(segment.is_empty() && last)));
    }
    ends_well
        && path.bytes().enumerate().all(|(at, byte)| match byte {
            b'%' => encoded(at),
            b'\\' | b'#' | b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' => false,
            _ => byte.is_ascii_graphic(),
        })
}
