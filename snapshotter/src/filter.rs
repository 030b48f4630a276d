//! The filters of a List, in the syntax of containerd's `filters` package.
//!
//! ```text
//! selectors := selector ("," selector)*          all of them must match
//! selector  := fieldpath (operator value)?       without an operator: the field is present
//! fieldpath := field ("." field)*
//! field     := quoted | [A-Za-z0-9_]+
//! operator  := "==" | "!=" | "~="                 "~=" takes a regular expression
//! value     := quoted | anything but blanks and commas
//! quoted    := Go string syntax in "", for "~=" also in // or ||
//! ```
//!
//! The fields of a snapshot are `name`, `parent`, `kind` (`active`, `view`, `committed`) and `labels.<key>`. Of
//! several filters one must match; none, or an empty one, matches everything.

mod quote;
mod scan;

use regex::Regex;

use crate::error::Error;
use crate::snapshot::Record;
use scan::{Scanner, Token};

/// Filters, ready to be asked.
#[derive(Debug)]
pub(crate) struct Filters {
    /// Empty: everything matches.
    any: Vec<Vec<Selector>>,
}

#[derive(Debug)]
struct Selector {
    path: Vec<Vec<u8>>,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Present,
    Equal(Vec<u8>),
    NotEqual(Vec<u8>),
    /// `None`: the expression does not compile, and then matches nothing, as in containerd.
    Matches(Option<Regex>),
}

impl Filters {
    /// Parses the filters of one request.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] with containerd's wording for the first that does not parse.
    pub(crate) fn parse(filters: &[String]) -> Result<Self, Error> {
        if filters.iter().any(String::is_empty) {
            return Ok(Self { any: Vec::new() });
        }
        let any = filters
            .iter()
            .map(|filter| Parser::new(filter).selectors())
            .collect::<Result<_, _>>()?;
        Ok(Self { any })
    }

    /// Tells whether a snapshot is asked for.
    pub(crate) fn matches(&self, name: &str, record: &Record) -> bool {
        self.any.is_empty()
            || self
                .any
                .iter()
                .any(|all| all.iter().all(|s| s.matches(name, record)))
    }
}

impl Selector {
    fn matches(&self, name: &str, record: &Record) -> bool {
        let field = field(&self.path, name, record);
        match &self.test {
            Test::Present => field.is_some(),
            Test::Equal(value) => field.is_some_and(|field| field.as_bytes() == value),
            Test::NotEqual(value) => field.unwrap_or_default().as_bytes() != value,
            Test::Matches(regex) => regex
                .as_ref()
                .is_some_and(|regex| regex.is_match(field.unwrap_or_default())),
        }
    }
}

/// Looks a field path up; the parts of a label's key that dots divided are joined again.
fn field<'a>(path: &[Vec<u8>], name: &'a str, record: &'a Record) -> Option<&'a str> {
    let (first, rest) = path.split_first()?;
    match first.as_slice() {
        b"name" => Some(name),
        b"parent" => Some(&record.parent),
        b"kind" => Some(record.kind.name()),
        b"labels" => {
            let key = String::from_utf8(rest.join(&b'.')).ok()?;
            record.labels.get(&key).map(String::as_str)
        }
        _ => None,
    }
}

struct Parser<'a> {
    scanner: Scanner<'a>,
}

impl<'a> Parser<'a> {
    fn new(input: &'a str) -> Self {
        Self {
            scanner: Scanner::new(input),
        }
    }

    fn selectors(mut self) -> Result<Vec<Selector>, Error> {
        let mut all = vec![self.selector()?];
        loop {
            match self.scanner.peek() {
                None => return Ok(all),
                Some(',') => {
                    self.scanner.scan();
                    all.push(self.selector()?);
                }
                Some(other) => {
                    let at = self.scanner.at();
                    return Err(self.error(at, &format!("unexpected input: {other}")));
                }
            }
        }
    }

    fn selector(&mut self) -> Result<Selector, Error> {
        let path = self.fieldpath()?;
        let test = match self.scanner.peek() {
            None | Some(',') => Test::Present,
            Some(_) => self.comparison()?,
        };
        Ok(Selector { path, test })
    }

    fn comparison(&mut self) -> Result<Test, Error> {
        let (at, token) = self.scanner.scan();
        let operator = match token {
            Token::Operator(operator) => operator,
            Token::Illegal(why) => return Err(self.error(at, why)),
            _ => return Err(self.error(at, r#"expected an operator ("=="|"!="|"~=")"#)),
        };
        match operator {
            "==" => self.value(false).map(Test::Equal),
            "!=" => self.value(false).map(Test::NotEqual),
            "~=" => {
                let value = self.value(true)?;
                let regex = std::str::from_utf8(&value)
                    .ok()
                    .and_then(|value| Regex::new(value).ok());
                Ok(Test::Matches(regex))
            }
            _ => Err(self.error(at, &format!("unsupported operator {operator:?}"))),
        }
    }

    fn fieldpath(&mut self) -> Result<Vec<Vec<u8>>, Error> {
        let mut path = vec![self.field()?];
        while self.scanner.peek() == Some('.') {
            self.scanner.scan();
            path.push(self.field()?);
        }
        Ok(path)
    }

    fn field(&mut self) -> Result<Vec<u8>, Error> {
        let (at, token) = self.scanner.scan();
        match token {
            Token::Field(field) => Ok(field.as_bytes().to_vec()),
            Token::Quoted(quoted) => self.unquoted(at, quoted, false),
            Token::Illegal(why) => Err(self.error(at, why)),
            _ => Err(self.error(at, "expected field or quoted")),
        }
    }

    fn value(&mut self, for_regex: bool) -> Result<Vec<u8>, Error> {
        let (at, token) = self.scanner.scan();
        match token {
            Token::Value(value) | Token::Field(value) => Ok(value.as_bytes().to_vec()),
            Token::Quoted(quoted) => self.unquoted(at, quoted, for_regex),
            Token::Illegal(why) => Err(self.error(at, why)),
            _ => Err(self.error(at, "expected value or quoted")),
        }
    }

    fn unquoted(&self, at: usize, quoted: &str, for_regex: bool) -> Result<Vec<u8>, Error> {
        if !for_regex && !quoted.starts_with('"') {
            return Err(self.error(at, "invalid quote encountered"));
        }
        quote::unquote(quoted).ok_or_else(|| self.error(at, "unquoting failed: quote syntax error"))
    }

    /// Points at the place as containerd does: `[before >|x|< after]`.
    fn error(&self, at: usize, why: &str) -> Error {
        let input = self.scanner.input();
        let pointed = match (
            input.get(..at),
            input.get(at..).and_then(|rest| rest.chars().next()),
        ) {
            (Some(before), Some(here)) => {
                let after = &input[at + here.len_utf8()..];
                format!("{before} >|{here}|< {after}")
            }
            _ => input.to_owned(),
        };
        Error::invalid(format!("filters: parse error: [{pointed}]: {why}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::snapshot::{Kind, Labels};

    fn record(kind: Kind, parent: &str, labels: &[(&str, &str)]) -> Record {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Record::bare(kind, parent, labels.collect::<Labels>())
    }

    /// The corpus of containerd's filter tests, its field `other` read as `parent`.
    fn corpus() -> Vec<(&'static str, Record)> {
        let c = Kind::Committed;
        vec![
            ("foo", record(c, "", &[("foo", "true")])),
            ("bar", record(c, "", &[])),
            (
                "foo",
                record(c, "", &[("foo", "present"), ("more complex label", "present")]),
            ),
            ("bar", record(c, "", &[("bar", "true")])),
            (
                "fooer",
                record(c, "", &[("more complex label with \\ and \"", "present")]),
            ),
            (
                "fooer",
                record(c, "", &[("more complex label with \\ and \".post", "present")]),
            ),
            ("baz", record(c, "too complex, yo", &[])),
            ("bazo", record(c, "abc", &[])),
            ("compound", record(c, "", &[("foo", "omg_asdf.asdf-qwer")])),
        ]
    }

    fn found(filters: &[&str]) -> Result<Vec<usize>, String> {
        let filters: Vec<String> = filters.iter().map(|f| (*f).to_owned()).collect();
        let filters = Filters::parse(&filters).map_err(|error| error.to_string())?;
        let matches =
            |(i, (name, record)): (usize, (&str, Record))| filters.matches(name, &record).then_some(i);
        Ok(corpus().into_iter().enumerate().filter_map(matches).collect())
    }

    #[test]
    fn containerds_table_of_matches() {
        let all: Vec<usize> = (0..9).collect();
        let rows: &[(&str, &[usize])] = &[
            ("", &all),
            ("name", &all),
            ("labels.foo", &[0, 2, 8]),
            ("labels.foo,name", &[0, 2, 8]),
            ("labels.foo==true", &[0]),
            ("labels.foo==omg_asdf.asdf-qwer", &[8]),
            ("name==bar", &[1, 3]),
            ("name!=bar", &[0, 2, 4, 5, 6, 7, 8]),
            ("name==bar,labels.bar", &[3]),
            (r#"parent=="too complex, yo""#, &[6]),
            ("parent~=[abc]+,name!=foo", &[6, 7]),
            ("parent~=/[abc]+/,name!=foo", &[6, 7]),
            ("parent~=/[abc]{1,2}/,name!=foo", &[6, 7]),
            (r#"parent~=/[abc]{0,1}"\//,name!=foo"#, &[]),
            ("name==bar,labels.bar==true", &[3]),
            ("name==bar,labels.bar==wrong", &[]),
            (r#"name==foo,labels."more complex label""#, &[2]),
            (r#"labels."more complex label with \\ and \""==present"#, &[4]),
            (
                r#"labels."more complex label with \\ and \"".post==present"#,
                &[5],
            ),
            // beyond containerd's table
            ("kind==committed,name==baz", &[6]),
            ("kind==active", &[]),
            ("labels", &[]),
            ("unknown", &[]),
            ("unknown!=x,name==baz", &[6]),
            ("labels.foo!=true,name==foo", &[2]),
            ("name~=/(/", &[]),
            (r#"parent=="",name==bar"#, &[1, 3]),
            (r#""name"=="ba\x7a""#, &[6]),
        ];
        for (filter, expected) in rows {
            assert_eq!(found(&[filter]).as_deref(), Ok(*expected), "{filter}");
        }
    }

    #[test]
    fn containerds_table_of_errors() {
        let rows = [
            (
                "labels.|foo|==omg_asdf.asdf-qwer",
                "[labels. >|||< foo|==omg_asdf.asdf-qwer]: invalid quote encountered",
            ),
            (
                r#"labels.?"more complex label with \\ and \"".post==present"#,
                r#"[labels. >|?|< "more complex label with \\ and \"".post==present]: expected field or quoted"#,
            ),
            ("name==foo,", "[name==foo,]: expected field or quoted"),
            ("labels.", "[labels.]: expected field or quoted"),
            (
                "image~=,id?=?fbaq",
                "[image~= >|,|< id?=?fbaq]: expected value or quoted",
            ),
            (
                "labels.ns/key==value",
                "[labels.ns >|/|< key==value]: quoted literal not terminated",
            ),
            (
                "labels.key==/value",
                "[labels.key== >|/|< value]: quoted literal not terminated",
            ),
        ];
        for (filter, expected) in rows {
            let error = found(&[filter]).unwrap_err();
            assert_eq!(
                error,
                format!("filters: parse error: {expected}: invalid argument"),
                "{filter}"
            );
        }
    }

    #[test]
    fn several_filters_are_alternatives() {
        assert_eq!(found(&[]).unwrap().len(), 9);
        assert_eq!(found(&["name==baz", "name==bazo"]).unwrap(), [6, 7]);
        assert_eq!(found(&["name==baz", ""]).unwrap().len(), 9);
        assert!(found(&["name==baz", "name="]).is_err());
    }

    #[test]
    fn the_filter_of_containerds_metadata_store() {
        let chain = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let parent = "one/12/extract-1-AbC= sha256:12";
        let snapshot = record(Kind::Committed, parent, &[("containerd.io/snapshot.ref", chain)]);
        let filter = |parent: &str| {
            let text = format!(r#"labels."containerd.io/snapshot.ref"=={chain},parent=="{parent}""#);
            Filters::parse(&[text]).unwrap()
        };
        assert!(filter(parent).matches("x", &snapshot));
        assert!(!filter("").matches("x", &snapshot));
    }

    #[test]
    fn nothing_makes_the_parser_panic() {
        let pieces = [
            "\"", "\\", "/", "|", "x", "\\x", "\\u12", "\\777", ".", ",", "==", "~=", "\0", "é", " ",
            "\u{fffd}",
        ];
        for a in pieces {
            for b in pieces {
                for c in pieces {
                    let _ = found(&[&format!("{a}{b}{c}")]);
                    let _ = found(&[&format!("name=={a}{b}{c}")]);
                }
            }
        }
    }
}
