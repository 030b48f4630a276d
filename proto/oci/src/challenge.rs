//! `WWW-Authenticate` values (RFC 9110, 11.6.1), read with care: a server may send anything.

use crate::limits::{MAX_CHALLENGE, MAX_CHALLENGE_PARTS};

/// One way to log in that a server offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// Lower case: `basic`, `bearer`.
    pub(crate) scheme: String,
    /// Names in lower case, values unquoted, in the server's order.
    pub(crate) params: Vec<(String, String)>,
}

impl Challenge {
    /// The first parameter of that name.
    pub(crate) fn param(&self, name: &str) -> Option<&str> {
        self.params
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Reads the challenges of one header value. What cannot be read ends the list; what was read before it stands.
pub(crate) fn parse(value: &[u8]) -> Vec<Challenge> {
    let value = &value[..value.len().min(MAX_CHALLENGE)];
    let mut cursor = Cursor { bytes: value, at: 0 };
    let mut challenges: Vec<Challenge> = Vec::new();
    while challenges.len() < MAX_CHALLENGE_PARTS {
        cursor.skip(b" \t,");
        let Some(scheme) = cursor.token() else { break };
        let mut challenge = Challenge {
            scheme: scheme.to_ascii_lowercase(),
            params: Vec::new(),
        };
        let whole = cursor.params(&mut challenge.params);
        challenges.push(challenge);
        if !whole {
            break;
        }
    }
    challenges
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip(&mut self, set: &[u8]) {
        while self.peek().is_some_and(|b| set.contains(&b)) {
            self.at += 1;
        }
    }

    fn token(&mut self) -> Option<String> {
        let start = self.at;
        while self.peek().is_some_and(is_token_byte) {
            self.at += 1;
        }
        let token = std::str::from_utf8(&self.bytes[start..self.at]).ok()?;
        (!token.is_empty()).then(|| token.to_owned())
    }

    /// Reads `name=value` pairs up to the next scheme or the end. False: the text is broken here.
    fn params(&mut self, params: &mut Vec<(String, String)>) -> bool {
        loop {
            self.skip(b" \t,");
            let start = self.at;
            let Some(name) = self.token() else {
                return self.peek().is_none();
            };
            self.skip(b" \t");
            if self.peek() != Some(b'=') {
                // A token without a value is the next scheme.
                self.at = start;
                return true;
            }
            self.at += 1;
            self.skip(b" \t");
            if matches!(self.peek(), None | Some(b'=' | b',')) {
                // Not a parameter but a scheme's own base64 text with its padding (token68).
                self.skip(b"=");
                continue;
            }
            let Some(value) = self.value() else { return false };
            if params.len() < MAX_CHALLENGE_PARTS {
                params.push((name.to_ascii_lowercase(), value));
            }
        }
    }

    fn value(&mut self) -> Option<String> {
        if self.peek() != Some(b'"') {
            return self.token();
        }
        self.at += 1;
        let mut value = Vec::new();
        loop {
            let byte = self.peek()?;
            self.at += 1;
            match byte {
                b'"' => return String::from_utf8(value).ok(),
                b'\\' => {
                    value.push(self.peek()?);
                    self.at += 1;
                }
                _ => value.push(byte),
            }
        }
    }
}

/// RFC 9110 token characters.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: &[u8]) -> String {
        let one = |c: &Challenge| {
            let params: Vec<_> = c.params.iter().map(|(k, v)| format!("{k}={v}")).collect();
            format!("{}({})", c.scheme, params.join(";"))
        };
        parse(value).iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn reads_what_servers_send() {
        let rows: &[(&str, &[u8], &str)] = &[
            ("basic", br#"Basic realm="Registry Realm""#, "basic(realm=Registry Realm)"),
            (
                "bearer",
                br#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
                "bearer(realm=https://auth.docker.io/token;service=registry.docker.io;scope=repository:a/b:pull,push)",
            ),
            ("odd case and spaces", br#"BEARER  Realm = "x" , SERVICE=y"#, "bearer(realm=x;service=y)"),
            ("two in one line", br#"Basic realm="a", Bearer realm="b""#, "basic(realm=a) bearer(realm=b)"),
            ("no parameters", b"Negotiate, Basic realm=x", "negotiate() basic(realm=x)"),
            ("escaped quote", br#"Basic realm="a\"b\\c""#, r#"basic(realm=a"b\c)"#),
            ("empty value", br#"Bearer realm="""#, "bearer(realm=)"),
            ("trailing comma", br#"Basic realm="a","#, "basic(realm=a)"),
            ("nothing", b"", ""),
            ("only commas", b" ,, ,", ""),
            ("unclosed quote", br#"Bearer realm="abc"#, "bearer()"),
            ("ends in a backslash", br#"Bearer realm="abc\"#, "bearer()"),
            ("no value", b"Bearer realm=", "bearer()"),
            ("token68", b"Negotiate abc==, Basic realm=x", "negotiate() basic(realm=x)"),
            ("not UTF-8 in quotes", b"Basic realm=\"\xff\"", "basic()"),
            ("not UTF-8 outside", b"\xff\xfeBasic", ""),
            ("broken tail keeps the head", b"Basic realm=\"a\", \x01", "basic(realm=a)"),
        ];
        for (name, value, expected) in rows {
            assert_eq!(&shown(value), expected, "{name}");
        }
    }

    #[test]
    fn is_bounded() {
        let many = "a b=c,".repeat(10_000);
        assert!(parse(many.as_bytes()).len() <= MAX_CHALLENGE_PARTS);
        let params = format!("Bearer {}", "x=y,".repeat(10_000));
        assert!(
            parse(params.as_bytes())
                .iter()
                .all(|c| c.params.len() <= MAX_CHALLENGE_PARTS)
        );
    }

    proptest::proptest! {
        #[test]
        fn never_panics(value in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            parse(&value);
        }

        #[test]
        fn never_panics_on_nearly_right(value in "[Bb]earer[ ,=\"\\\\a-z]{0,60}") {
            parse(value.as_bytes());
        }
    }
}
