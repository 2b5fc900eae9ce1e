//! The key that a request presents: which headers may bear one, and which of them counts (SPEC §7).

/// A header that may bear a caller key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyHeader {
    /// Evergrant's own.
    Own,
    /// Where the clients of an API put their key.
    ApiKey,
    /// A bearer token.
    Authorization,
}

impl KeyHeader {
    /// All of them, in the order in which they count.
    pub const ALL: [Self; 3] = [Self::Own, Self::ApiKey, Self::Authorization];

    /// Its name, in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Own => "x-cm-api-key",
            Self::ApiKey => "x-api-key",
            Self::Authorization => "authorization",
        }
    }

    /// The key in a value; nothing if it is empty or of another scheme.
    fn key(self, value: &[u8]) -> Option<&[u8]> {
        let key = match self {
            Self::Own | Self::ApiKey => value,
            Self::Authorization => {
                let (scheme, key) = value.split_at_checked("bearer ".len())?;
                scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)?
            }
        };
        Some(key.trim_ascii()).filter(|key| !key.is_empty())
    }
}

/// What a request presents itself with, header by header. It does not print.
#[derive(Clone, Copy, Default)]
pub struct Presented<'b>([Option<&'b [u8]>; KeyHeader::ALL.len()]);

impl<'b> Presented<'b> {
    /// One more of its headers, in whatever order they come.
    pub fn see(&mut self, header: KeyHeader, value: &'b [u8]) {
        let Some(key) = header.key(value) else { return };
        let seen = &mut self.0[header as usize];
        // Which of two is meant, nobody can know: together they are a key that nobody has.
        *seen = Some(if seen.is_some() { b"" } else { key });
    }

    /// The key: of the first header that bears one.
    pub fn key(&self) -> Option<&'b [u8]> {
        self.0.iter().flatten().next().copied()
    }
}

impl std::fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Presented(…)")
    }
}
