//! The query of a track: from the rows of a table that changed to the keys of a view that they touch.
//!
//! A DBA writes it in the server's own SQL, with `:column` wherever it takes the values of a column of the
//! changed rows; a connector puts a list of literals there. Nothing else of the text is changed, so it must
//! be certain what of it is text, a comment or a name. The servers do not agree on that (a backslash in a
//! text, `#`, comments in comments), and here it is not known which of them will read it: what two of them
//! would read differently is refused, with the words that all of them read alike.

use std::ops::Range;

use crate::schema::DataType;

/// A column of a query's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryColumn {
    /// Its name.
    pub name: String,
    /// What it can hold, as far as the server tells it of a query.
    pub data_type: DataType,
}

/// A query that gives keys, with the places of its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackQuery {
    sql: String,
    parameters: Vec<Parameter>,
}

/// `:name` or `:"any name"` in a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// The column's name.
    pub name: String,
    /// Its bytes in the query, the colon among them.
    pub at: Range<usize>,
}

/// What is wrong with a query, and where in its text.
pub type Fault = (Range<usize>, String);

impl TrackQuery {
    /// Finds the parameters. A single semicolon at the end is taken off.
    pub fn parse(sql: &str) -> Result<TrackQuery, Fault> {
        let mut scan = Scan { text: sql, at: 0 };
        let (mut parameters, mut open) = (Vec::new(), Vec::new());
        let (mut first, mut end) = (None, None);
        let mut before = None;
        while let Some(token) = scan.next()? {
            let range = token.at.clone();
            if token.kind == Kind::Space {
                before = None;
                continue;
            }
            if end.is_some() {
                return Err((range, "more than one statement; a track has one query".to_owned()));
            }
            if first.is_none() && token.kind != Kind::Open {
                first = Some(range.clone());
                let word = sql.get(range.clone()).unwrap_or_default();
                if !["select", "with"].iter().any(|w| word.eq_ignore_ascii_case(w)) {
                    let says = "a track's query begins with SELECT or WITH";
                    return Err((range, says.to_owned()));
                }
            }
            match token.kind {
                Kind::Open => open.push(range.clone()),
                Kind::Close => {
                    if open.pop().is_none() {
                        return Err((range, "a closing parenthesis without an opening one".into()));
                    }
                }
                Kind::Semicolon => end = Some(range.start),
                // Behind a value it is the colon of an array's slice.
                Kind::Parameter(name) if before != Some(true) => {
                    parameters.push(Parameter { name, at: range });
                }
                Kind::Parameter(_) | Kind::Space | Kind::Word | Kind::Quoted | Kind::Other => {}
            }
            before = Some(matches!(scan.last(), Some(c) if is_value_end(c)));
        }
        if let Some(range) = open.pop() {
            return Err((range, "this parenthesis is never closed".to_owned()));
        }
        if first.is_none() {
            return Err((0..sql.len(), "a track's query begins with SELECT or WITH".to_owned()));
        }
        let sql = sql.get(..end.unwrap_or(sql.len())).unwrap_or_default().to_owned();
        Ok(TrackQuery { sql, parameters })
    }

    /// The text, parameters and all.
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// The parameters in the order of the text; a name may be there more than once.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The text with each parameter replaced by what `list` gives for its name.
    pub fn expand<E>(&self, mut list: impl FnMut(&str) -> Result<String, E>) -> Result<String, E> {
        let mut out = String::with_capacity(self.sql.len());
        let mut from = 0;
        for parameter in &self.parameters {
            out.push_str(self.sql.get(from..parameter.at.start).unwrap_or_default());
            out.push_str(&list(&parameter.name)?);
            from = parameter.at.end;
        }
        out.push_str(self.sql.get(from..).unwrap_or_default());
        Ok(out)
    }
}

#[derive(Debug, PartialEq)]
enum Kind {
    /// Blanks and comments.
    Space,
    /// A keyword, a name or a number.
    Word,
    /// A text or name in quotes.
    Quoted,
    Open,
    Close,
    Semicolon,
    Parameter(String),
    Other,
}

struct Token {
    kind: Kind,
    at: Range<usize>,
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$')
}

fn starts_name(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

/// Whether a value or a name may end with it.
fn is_value_end(c: char) -> bool {
    is_word(c) || matches!(c, ')' | ']' | '\'' | '"' | '`')
}

/// Cuts a text into tokens.
struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl Scan<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// The character before the place.
    fn last(&self) -> Option<char> {
        self.text.get(..self.at).and_then(|t| t.chars().next_back())
    }

    fn skip_while(&mut self, test: impl Fn(char) -> bool) {
        let rest = self.rest();
        self.at += rest.find(|c| !test(c)).unwrap_or(rest.len());
    }

    /// Goes behind the next such text; false if there is none.
    fn skip_past(&mut self, end: &str) -> bool {
        match self.rest().find(end) {
            Some(found) => {
                self.at += found + end.len();
                true
            }
            None => false,
        }
    }

    fn next(&mut self) -> Result<Option<Token>, Fault> {
        let start = self.at;
        let mut chars = self.rest().chars();
        let Some(c) = chars.next() else { return Ok(None) };
        let then = chars.next();
        let kind = match (c, then) {
            (c, _) if c.is_whitespace() => {
                self.skip_while(char::is_whitespace);
                Kind::Space
            }
            ('-', Some('-')) => self.line_comment()?,
            ('/', Some('*')) => self.comment()?,
            ('\'' | '"' | '`', _) => {
                self.quoted(c)?;
                Kind::Quoted
            }
            ('$', _) => self.dollar()?,
            (c, _) if is_word(c) => {
                self.skip_while(is_word);
                Kind::Word
            }
            (':', Some(':' | '=')) => {
                self.at += 2;
                Kind::Other
            }
            (':', Some('"')) => {
                self.at += 1;
                Kind::Parameter(self.quoted('"')?.replace("\"\"", "\""))
            }
            (':', Some(c)) if starts_name(c) => {
                self.at += 1;
                self.skip_while(is_word);
                Kind::Parameter(self.text.get(start + 1..self.at).unwrap_or_default().to_owned())
            }
            ('#', Some('>' | '-')) => {
                self.at += 2;
                Kind::Other
            }
            ('#', _) => {
                let says = "some servers read a comment here and some an operator; write a comment as -- or /* */";
                return Err((start..start + 1, says.to_owned()));
            }
            ('(', _) => self.one(Kind::Open),
            (')', _) => self.one(Kind::Close),
            (';', _) => self.one(Kind::Semicolon),
            (c, _) => {
                self.at += c.len_utf8();
                Kind::Other
            }
        };
        Ok(Some(Token { kind, at: start..self.at }))
    }

    fn one(&mut self, kind: Kind) -> Kind {
        self.at += 1;
        kind
    }

    /// To the end of the line. Some servers want a blank behind the dashes and subtract twice without.
    fn line_comment(&mut self) -> Result<Kind, Fault> {
        let start = self.at;
        self.at += 2;
        if self.rest().chars().next().is_some_and(|c| !c.is_whitespace()) {
            let says =
                "some servers read a comment here and some two signs; write a blank behind --";
            return Err((start..start + 2, says.to_owned()));
        }
        self.skip_while(|c| !matches!(c, '\n' | '\r'));
        if self.rest().starts_with('\r') && !self.rest().starts_with("\r\n") {
            let says =
                "some servers end the comment here and some do not; end its line with a line feed";
            return Err((self.at..self.at + 1, says.to_owned()));
        }
        Ok(Kind::Space)
    }

    fn comment(&mut self) -> Result<Kind, Fault> {
        let start = self.at;
        self.at += 2;
        if self.rest().starts_with('!') || self.rest().starts_with("M!") {
            let says = "some servers execute this comment and some do not; leave it out";
            return Err((start..self.at + 1, says.to_owned()));
        }
        let body = self.at;
        if !self.skip_past("*/") {
            return Err((start..self.text.len(), "this comment is never closed".to_owned()));
        }
        let inner = self.text.get(body..self.at - 2).unwrap_or_default();
        if let Some(nested) = inner.find("/*") {
            let says = "some servers read a comment inside a comment and some do not; leave it out";
            return Err((body + nested..body + nested + 2, says.to_owned()));
        }
        Ok(Kind::Space)
    }

    /// A text or name in quotes, which a doubled quote does not end: what stands between.
    fn quoted(&mut self, quote: char) -> Result<String, Fault> {
        let start = self.at;
        self.at += 1;
        let mut escaped = false;
        while let Some(c) = self.rest().chars().next() {
            if c == quote && escaped && quote != '`' {
                let says = format!(
                    "some servers end the text here and some do not; write {quote}{quote} for a quote, and no \
                     backslash before one"
                );
                return Err((self.at - 1..self.at + 1, says));
            }
            escaped = c == '\\' && !escaped;
            self.at += c.len_utf8();
            if c != quote {
                continue;
            }
            if !self.rest().starts_with(quote) {
                return Ok(self.text.get(start + 1..self.at - 1).unwrap_or_default().to_owned());
            }
            self.at += 1;
        }
        Err((start..self.text.len(), format!("this {quote} is never closed")))
    }

    /// `$$text$$` or `$tag$text$tag$`; not `$1`.
    fn dollar(&mut self) -> Result<Kind, Fault> {
        let start = self.at;
        self.at += 1;
        self.skip_while(|c| is_word(c) && c != '$');
        if !self.rest().starts_with('$') {
            let says = "a parameter is written as :column";
            return Err((start..self.at, says.to_owned()));
        }
        self.at += 1;
        let tag = self.text.get(start..self.at).unwrap_or_default().to_owned();
        match self.skip_past(&tag) {
            true => Ok(Kind::Quoted),
            false => Err((start..self.text.len(), format!("this {tag} is never closed"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(sql: &str) -> Vec<String> {
        let query = TrackQuery::parse(sql).expect(sql);
        for parameter in query.parameters() {
            assert!(sql[parameter.at.clone()].starts_with(':'), "{sql}");
        }
        query.parameters().iter().map(|p| p.name.clone()).collect()
    }

    fn fault(sql: &str) -> String {
        let (at, says) = TrackQuery::parse(sql).expect_err(sql);
        assert!(at.end <= sql.len() && sql.get(at.clone()).is_some(), "{sql}: {at:?}");
        format!("{}|{says}", &sql[at])
    }

    #[test]
    fn parameters_are_found_and_nothing_that_looks_like_one() {
        for (sql, expected) in [
            ("SELECT party FROM a WHERE country IN (:id)", vec!["id"]),
            ("select a from t where b in(:x,:y) or c=:x", vec!["x", "y", "x"]),
            ("SELECT a FROM t WHERE c IN (:\"Order \"\"No\")", vec!["Order \"No"]),
            ("SELECT a FROM t WHERE c IN (:größe)", vec!["größe"]),
            ("SELECT ':a', \":b\", `:c`, 'it''s :d' FROM t", vec![]),
            ("SELECT 1 -- :a\n , /* :b */ x::int, @v := 1, y::text FROM t", vec![]),
            ("SELECT $$ :a ' $$, $x$ :b $$ $x$ FROM t WHERE c = :d", vec!["d"]),
            ("SELECT a[1:n], a[lo:hi], f(x)[f(y):z] FROM t WHERE c IN (:n)", vec!["n"]),
            ("SELECT a$b FROM t WHERE c$d = :e$f", vec!["e$f"]),
            ("SELECT j #>> '{a}', j #- '{b}' FROM t WHERE c IN ( :d )", vec!["d"]),
            ("(SELECT 1) UNION (SELECT :a)", vec!["a"]),
            ("WITH x AS (SELECT 1) SELECT * FROM x", vec![]),
            ("SELECT 'a\\\\', :b, 'c\\d'", vec!["b"]),
        ] {
            assert_eq!(names(sql), expected, "{sql}");
        }
    }

    #[test]
    fn what_servers_read_differently_is_refused_at_its_place() {
        for (sql, at, says) in [
            ("SELECT 'a\\' FROM t", "\\'", "backslash"),
            ("SELECT \"a\\\" FROM t", "\\\"", "backslash"),
            ("SELECT 1 # :a", "#", "--"),
            ("SELECT 1 --1", "--", "blank"),
            ("SELECT 1 -- a\rFROM t", "\r", "line feed"),
            ("SELECT /* a /* b */ c */ 1", "/*", "inside"),
            ("SELECT /*!50000 1 */", "/*!", "execute"),
            ("SELECT /*M!100000 1 */", "/*M", "execute"),
            ("SELECT $1", "$1", ":column"),
        ] {
            let found = fault(sql);
            assert!(found.starts_with(&format!("{at}|")) && found.contains(says), "{sql}: {found}");
        }
    }

    #[test]
    fn one_query_and_nothing_else() {
        for (sql, at) in [
            ("DELETE FROM t", "DELETE"),
            ("SELECT 1; SELECT 2", "SELECT"),
            ("SELECT 1;;", ";"),
            ("SELECT 1) x", ")"),
            ("SELECT (1", "("),
            ("SELECT 'a", "'a"),
            ("SELECT $a$ b", "$a$ b"),
            ("SELECT /* a", "/* a"),
            ("  ", "  "),
            ("-- SELECT\nINSERT", "INSERT"),
        ] {
            let found = fault(sql);
            assert!(found.starts_with(&format!("{at}|")), "{sql}: {found}");
        }
        let query = TrackQuery::parse(" SELECT 1 ; -- end\n").expect("a query");
        assert_eq!(query.sql(), " SELECT 1 ");
    }

    #[test]
    fn only_parameters_are_replaced() {
        let query =
            TrackQuery::parse("SELECT ':a' WHERE b IN (:a) OR c IN (:b) -- :a").expect("a query");
        let filled = query.expand(|name| Ok::<_, ()>(format!("<{name}>"))).expect("filled");
        assert_eq!(filled, "SELECT ':a' WHERE b IN (<a>) OR c IN (<b>) -- :a");
    }

    /// Pieces of SQL, each with the parameter that it holds.
    fn piece() -> impl Strategy<Value = (String, Option<String>)> {
        prop_oneof![
            "[a-z]{1,5}".prop_map(|name| (format!("IN (:{name}) "), Some(name))),
            "[a-z ]{1,5}".prop_map(|name| (format!("= :\"{name}\" "), Some(name))),
            "[a-z:;'\"]{0,6}".prop_map(|t| (format!("'{}' ", t.replace('\'', "''")), None)),
            "[a-z:;'\"]{0,6}".prop_map(|t| (format!("\"{}\" ", t.replace('"', "\"\"")), None)),
            "[a-z:;'\" ]{0,6}".prop_map(|t| (format!("/* {t} */"), None)),
            "[a-z:;'\" ]{0,6}".prop_map(|t| (format!("-- {t}\n"), None)),
            "[a-z:;'\" ]{0,6}".prop_map(|t| (format!("$q${t}$q$ "), None)),
            "[a-z]{1,4}".prop_map(|t| (format!("{t}::{t} "), None)),
            "[a-z]{1,4}".prop_map(|t| (format!("@{t} := {t} "), None)),
            "[a-z]{1,4}".prop_map(|t| (format!("{t}[1:{t}] "), None)),
        ]
    }

    proptest! {
        #[test]
        fn exactly_the_parameters_are_found(pieces in proptest::collection::vec(piece(), 0..12)) {
            let sql = format!("SELECT {}", pieces.iter().map(|(t, _)| t.as_str()).collect::<String>());
            let expected: Vec<&String> = pieces.iter().filter_map(|(_, name)| name.as_ref()).collect();
            let query = TrackQuery::parse(&sql);
            prop_assert!(query.is_ok(), "{} {:?}", sql, query);
            if let Ok(query) = query {
                let found: Vec<&String> = query.parameters().iter().map(|p| &p.name).collect();
                prop_assert_eq!(found, expected);
            }
        }

        #[test]
        fn any_text_gives_an_answer_with_a_place_inside_it(
            tail in "[-a-z0-9:;'\"`#$/*!\\\\()\\[\\]=\n\r é]{0,40}|.{0,30}",
        ) {
            let sql = format!("SELECT {tail}");
            match TrackQuery::parse(&sql) {
                Ok(query) => {
                    let same = query.expand(|name| Ok::<_, ()>(format!("<{name}>")));
                    prop_assert!(same.is_ok());
                    for p in query.parameters() {
                        prop_assert!(query.sql().get(p.at.clone()).is_some_and(|t| t.starts_with(':')));
                    }
                }
                Err((at, _)) => prop_assert!(sql.get(at).is_some()),
            }
        }
    }
}
