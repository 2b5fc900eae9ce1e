//! Forms with files, `multipart/form-data` (RFC 7578, RFC 2046 §5.1).

/// One field of a form.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part<'a> {
    pub(super) name: String,
    pub(super) filename: Option<String>,
    pub(super) content_type: Option<String>,
    pub(super) content: &'a [u8],
}

/// The fields of a form, in their order; or what is wrong with it.
pub(super) fn parts<'a>(content_type: &str, body: &'a [u8]) -> Result<Vec<Part<'a>>, &'static str> {
    let boundary = parameter(content_type, "boundary").filter(|boundary| !boundary.is_empty());
    let delimiter = format!("--{}", boundary.ok_or("the content type names no boundary")?);
    let mut rest =
        body.strip_prefix(delimiter.as_bytes()).ok_or("the body does not begin with its boundary")?;
    let between = format!("\r\n{delimiter}");
    let mut parts = Vec::new();
    loop {
        if rest.starts_with(b"--") {
            return Ok(parts);
        }
        rest = rest.strip_prefix(b"\r\n").ok_or("a boundary's line goes on")?;
        let head = find(rest, b"\r\n\r\n").ok_or("a part without the end of its head")?;
        let content = &rest[head + 4..];
        let end = find(content, between.as_bytes()).ok_or("the last boundary is missing")?;
        parts.push(part(&rest[..head], &content[..end])?);
        rest = &content[end + between.len()..];
    }
}

fn part<'a>(head: &[u8], content: &'a [u8]) -> Result<Part<'a>, &'static str> {
    let head = std::str::from_utf8(head).map_err(|_| "a part's head is not UTF-8")?;
    let field = |wanted: &str| {
        let mut lines = head.split("\r\n").filter_map(|line| line.split_once(':'));
        lines.find(|(name, _)| name.trim().eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
    };
    let disposition = field("content-disposition").ok_or("a part without content-disposition")?;
    Ok(Part {
        name: parameter(disposition, "name").ok_or("a part without a name")?,
        filename: parameter(disposition, "filename"),
        content_type: field("content-type").map(str::to_owned),
        content,
    })
}

/// A parameter of a field's value, out of its quotes. Clients write a quote within a name as `%22`.
fn parameter(value: &str, wanted: &str) -> Option<String> {
    let mut rest = value.split_once(';')?.1;
    loop {
        let (name, after) = rest.split_once('=')?;
        let (found, behind) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(';').map_or((after, ""), |(found, _)| (found, &after[found.len()..])),
        };
        if name.trim_matches([' ', '\t', ';']).eq_ignore_ascii_case(wanted) {
            return Some(found.trim().replace("%22", "\""));
        }
        rest = behind;
    }
}

fn find(within: &[u8], wanted: &[u8]) -> Option<usize> {
    within.windows(wanted.len()).position(|here| here == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: &[u8] = b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a %22.txt\"\r\n\
        content-type: text/plain\r\n\r\none\r\n--a\r\n\r\n--b\r\ncontent-disposition: form-data; name=secs\r\n\r\n9\r\n--b--\r\n";

    #[test]
    fn a_form_is_its_fields() {
        let parts = parts("multipart/form-data; charset=x; boundary=\"b\"", FORM).unwrap();
        let file = Part {
            name: "file".into(),
            filename: Some("a \".txt".into()),
            content_type: Some("text/plain".into()),
            content: b"one\r\n--a\r\n",
        };
        let secs = Part { name: "secs".into(), filename: None, content_type: None, content: b"9" };
        assert_eq!(parts, [file, secs]);
    }

    #[test]
    fn a_broken_form_is_refused() {
        for (content_type, body) in [
            ("multipart/form-data", FORM),
            ("multipart/form-data; boundary=c", FORM),
            ("multipart/form-data; boundary=b", &FORM[..FORM.len() - 6]),
            ("multipart/form-data; boundary=b", b"--b\r\n\r\n\r\n--b--"),
            ("multipart/form-data; boundary=b", b"--b\r\nx: y"),
        ] {
            assert!(parts(content_type, body).is_err(), "{content_type} {}", body.escape_ascii());
        }
    }
}
