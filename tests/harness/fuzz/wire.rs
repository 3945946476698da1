//! Reads HTTP/1.1 requests (RFC 9112) strictly. It takes only one spelling of each, so that none
//! can have a second meaning. It shares no code with hyper.

/// Holds a whole request.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) fields: Fields,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Fields,
}

/// The names and values of fields.
type Fields = Vec<(String, Vec<u8>)>;

type Taken<'a, T> = Result<Option<(T, &'a [u8])>, String>;

impl Message {
    /// Returns the values of a field.
    pub(super) fn values(&self, name: &str) -> Vec<&[u8]> {
        let named = self.fields.iter().filter(|(field, _)| field == name);
        named.map(|(_, value)| value.as_slice()).collect()
    }
}

/// Takes the first request off `bytes` and returns both. Returns `None` while bytes are missing.
pub(super) fn request(bytes: &[u8]) -> Taken<'_, Message> {
    let Some((line, mut rest)) = line(bytes)? else {
        return Ok(None);
    };
    let parts: Vec<&str> = line.split(' ').collect();
    let &[method, target, "HTTP/1.1"] = parts.as_slice() else {
        return Err(format!("a request line: {line:?}"));
    };
    if !is_token(method) || !target.starts_with('/') || target.contains('#') {
        return Err(format!("a method and a path: {line:?}"));
    }
    let mut message = Message {
        method: method.to_owned(),
        target: target.to_owned(),
        fields: Vec::new(),
        body: Vec::new(),
        trailers: Vec::new(),
    };
    let Some((fields, after)) = fields(rest)? else {
        return Ok(None);
    };
    (message.fields, rest) = (fields, after);
    let Some(((body, trailers), rest)) = body(&message, rest)? else {
        return Ok(None);
    };
    (message.body, message.trailers) = (body, trailers);
    Ok(Some((message, rest)))
}

/// Takes fields up to the empty line.
fn fields(mut bytes: &[u8]) -> Taken<'_, Fields> {
    let mut fields = Fields::new();
    loop {
        let Some((field, rest)) = field(bytes)? else {
            return Ok(None);
        };
        match field {
            Some(field) => fields.push(field),
            None => return Ok(Some((fields, rest))),
        }
        bytes = rest;
    }
}

/// Takes one line of visible ASCII and spaces, without its CRLF.
fn line(bytes: &[u8]) -> Taken<'_, &str> {
    let Some((line, rest)) = until_crlf(bytes)? else {
        return Ok(None);
    };
    match std::str::from_utf8(line) {
        Ok(text) if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) => Ok(Some((text, rest))),
        _ => Err(format!("a line of ASCII: {}", line.escape_ascii())),
    }
}

/// Takes the bytes before CRLF. CR, LF and NUL are faults elsewhere.
fn until_crlf(bytes: &[u8]) -> Taken<'_, &[u8]> {
    let Some(end) = bytes.iter().position(|byte| b"\r\n\0".contains(byte)) else {
        return Ok(None);
    };
    match &bytes[end..] {
        [b'\r', b'\n', rest @ ..] => Ok(Some((&bytes[..end], rest))),
        b"\r" => Ok(None),
        _ => Err(format!(
            "CRLF at the end of {}",
            bytes[..end].escape_ascii()
        )),
    }
}

/// Takes a field and returns its name in small letters and its value, or `None` for the empty line.
fn field(bytes: &[u8]) -> Taken<'_, Option<(String, Vec<u8>)>> {
    let Some((line, rest)) = until_crlf(bytes)? else {
        return Ok(None);
    };
    if line.is_empty() {
        return Ok(Some((None, rest)));
    }
    let (name, value) = super::cut(line, b": ");
    let name = std::str::from_utf8(name).unwrap_or_default();
    let is_value = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
    if !is_token(name)
        || name.bytes().any(|byte| byte.is_ascii_uppercase())
        || !value.iter().all(is_value)
        || value.trim_ascii() != value
    {
        return Err(format!("a field: {}", line.escape_ascii()));
    }
    Ok(Some((Some((name.to_owned(), value.to_vec())), rest)))
}

/// Takes a body, and its trailers, by whichever of `Content-Length` and `Transfer-Encoding` is there. It
/// is empty without both.
fn body<'a>(message: &Message, bytes: &'a [u8]) -> Taken<'a, (Vec<u8>, Fields)> {
    let lengths = message.values("content-length");
    let codings = message.values("transfer-encoding");
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Ok(Some(((Vec::new(), Fields::new()), bytes))),
        ([], [b"chunked"]) => chunks(bytes),
        ([length], []) => {
            let text = std::str::from_utf8(length).unwrap_or_default();
            let length: usize = text.parse().map_err(|_| format!("a length: {text:?}"))?;
            if length.to_string() != text {
                return Err(format!("a length in its one form: {text:?}"));
            }
            let body = bytes.split_at_checked(length);
            Ok(body.map(|(body, rest)| ((body.to_vec(), Fields::new()), rest)))
        }
        lengths => Err(format!("one length: {lengths:?}")),
    }
}

/// Takes chunks without extensions, and the trailers after them.
fn chunks(mut bytes: &[u8]) -> Taken<'_, (Vec<u8>, Fields)> {
    let mut body = Vec::new();
    loop {
        let Some((size, rest)) = line(bytes)? else {
            return Ok(None);
        };
        let is_hex = !size.is_empty() && size.bytes().all(|byte| byte.is_ascii_hexdigit());
        let Some(length) = is_hex
            .then(|| usize::from_str_radix(size, 16).ok())
            .flatten()
        else {
            return Err(format!("a chunk's size: {size:?}"));
        };
        if length == 0 {
            let trailers = fields(rest)?;
            return Ok(trailers.map(|(trailers, rest)| ((body, trailers), rest)));
        }
        let Some((data, rest)) = rest.split_at_checked(length) else {
            return Ok(None);
        };
        let Some((end, rest)) = rest.split_at_checked(2) else {
            return Ok(None);
        };
        if end != b"\r\n" {
            return Err(format!("CRLF after a chunk: {}", end.escape_ascii()));
        }
        body.extend_from_slice(data);
        bytes = rest;
    }
}

/// Returns whether `text` is a token (RFC 9110 §5.6.2).
fn is_token(text: &str) -> bool {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_tchar)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_with_one_meaning_is_taken() {
        let two = b"GET /a?b HTTP/1.1\r\nhost: a\r\n\r\nPOST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: 1\r\n\r\n";
        let (first, rest) = request(two).unwrap().unwrap();
        assert_eq!(
            (&*first.target, first.values("host")),
            ("/a?b", vec![&b"a"[..]])
        );
        for end in 0..two.len() - rest.len() {
            assert!(request(&two[..end]).unwrap().is_none(), "{end}");
        }
        let (second, rest) = request(rest).unwrap().unwrap();
        assert_eq!(
            (&*second.method, &*second.body, rest),
            ("POST", &b"abc"[..], &b""[..])
        );
        assert_eq!(second.trailers, [("x".to_owned(), b"1".to_vec())]);
    }

    #[test]
    fn request_that_could_have_two_meanings_is_refused() {
        for text in [
            "GET  / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "GET https://a/ HTTP/1.1\r\n\r\n",
            "GET /\nx: y HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\r\n\r\n",
            "GET / HTTP/1.1\r\na : b\r\n\r\n",
            "GET / HTTP/1.1\r\na: b \r\n\r\n",
            "GET / HTTP/1.1\r\na: b\nc: d\r\n\r\n",
            "GET / HTTP/1.1\r\n a: b\r\n\r\n",
            "GET / HTTP/1.1\r\ncontent-length: +1\r\n\r\na",
            "GET / HTTP/1.1\r\ncontent-length: 01\r\n\r\na",
            "GET / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na",
            "GET / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\na",
            "GET / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n",
            "GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1;x\r\na\r\n0\r\n\r\n",
            "GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
            "GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\na : b\r\n\r\n",
        ] {
            assert!(request(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
