//! Cuts a filter into tokens.

/// One token; the text is that of the filter, quotes included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    End,
    Quoted(&'a str),
    Value(&'a str),
    Field(&'a str),
    Separator,
    Operator(&'a str),
    /// A character that begins no token.
    Other,
    Illegal(&'static str),
}

const NOT_TERMINATED: &str = "quoted literal not terminated";

/// Position in a filter.
pub(super) struct Scanner<'a> {
    input: &'a str,
    at: usize,
    /// An operator came last: what follows may hold more than a field.
    value: bool,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(input: &'a str) -> Self {
        Self {
            input,
            at: 0,
            value: false,
        }
    }

    pub(super) fn input(&self) -> &'a str {
        self.input
    }

    /// Byte position of the next character.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Returns the next character, blanks included, without taking it.
    pub(super) fn peek(&self) -> Option<char> {
        self.input[self.at..].chars().next()
    }

    /// Takes the next token; returns its byte position too.
    pub(super) fn scan(&mut self) -> (usize, Token<'a>) {
        self.take_while(char::is_whitespace);
        let start = self.at;
        let Some(first) = self.take() else {
            return (start, Token::End);
        };
        let token = match first {
            '\0' => Token::Illegal("unexpected null"),
            char::REPLACEMENT_CHARACTER => Token::Illegal("rune error"),
            '/' | '|' | '"' => self.quoted(start, first),
            ',' | '.' => {
                self.value = false;
                Token::Separator
            }
            '=' | '!' | '~' => {
                self.take_while(|c| matches!(c, '=' | '!' | '~'));
                self.value = true;
                Token::Operator(&self.input[start..self.at])
            }
            _ if self.value => {
                self.take_while(is_value);
                self.value = false;
                Token::Value(&self.input[start..self.at])
            }
            _ if is_field(first) => {
                self.take_while(is_field);
                Token::Field(&self.input[start..self.at])
            }
            _ => Token::Other,
        };
        (start, token)
    }

    fn take(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) {
        while self.peek().is_some_and(&wanted) {
            self.take();
        }
    }

    /// Finds the closing quote. Which escapes are legal is the business of [`super::quote`].
    fn quoted(&mut self, start: usize, quote: char) -> Token<'a> {
        loop {
            match self.take() {
                None | Some('\n' | '\0') => return Token::Illegal(NOT_TERMINATED),
                Some('\\') => {
                    if self.take().is_none() {
                        return Token::Illegal(NOT_TERMINATED);
                    }
                }
                Some(c) if c == quote => return Token::Quoted(&self.input[start..self.at]),
                Some(_) => {}
            }
        }
    }
}

fn is_field(c: char) -> bool {
    c == '_' || c.is_ascii_alphanumeric()
}

fn is_value(c: char) -> bool {
    c != ',' && !c.is_whitespace() && !c.is_control()
}
