//! What a statement in the log may touch, judged conservatively from its words. Pure.

/// What a statement is, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Statement {
    Begin,
    Commit,
    Rollback,
    Savepoint,
    XaStart,
    XaEnd,
    XaDecide,
    /// Rows written as a statement, not as rows.
    Write,
    Truncate,
    /// A table, or rows of it, are gone or replaced without row events.
    Lossy,
    /// The columns of a table may be others now.
    Alter,
    /// Names changed.
    Rename,
    /// Anything else.
    Other,
}

/// The words of a statement: identifiers and keywords, without comments and strings. Executable
/// comments (`/*!50100 … */`) count as text.
pub(crate) fn words(sql: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut chars = sql.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '`' | '"' => {
                let mut word = String::new();
                while let Some(x) = chars.next() {
                    if x == c {
                        if chars.peek() != Some(&c) {
                            break;
                        }
                        chars.next();
                    }
                    word.push(x);
                }
                words.push(word);
            }
            '\'' => {
                while let Some(x) = chars.next() {
                    match x {
                        '\\' => drop(chars.next()),
                        '\'' if chars.peek() == Some(&'\'') => drop(chars.next()),
                        '\'' => break,
                        _ => {}
                    }
                }
            }
            '#' => while chars.next().is_some_and(|x| x != '\n') {},
            '-' if chars.peek() == Some(&'-') => while chars.next().is_some_and(|x| x != '\n') {},
            '/' if chars.peek() == Some(&'*') => {
                chars.next();
                let run = match chars.peek() {
                    Some('!') => true,
                    Some('M') => {
                        chars.next();
                        chars.peek() == Some(&'!')
                    }
                    _ => false,
                };
                if run {
                    chars.next();
                    while chars.peek().is_some_and(char::is_ascii_digit) {
                        chars.next();
                    }
                } else {
                    let mut before = ' ';
                    for x in chars.by_ref() {
                        if before == '*' && x == '/' {
                            break;
                        }
                        before = x;
                    }
                }
            }
            c if c.is_alphanumeric() || c == '_' || c == '$' => {
                let mut word = String::from(c);
                while let Some(x) = chars.next_if(|x| x.is_alphanumeric() || *x == '_' || *x == '$')
                {
                    word.push(x);
                }
                words.push(word);
            }
            _ => {}
        }
    }
    words
}

/// Classifies a statement by its words.
pub(crate) fn classify(words: &[String]) -> Statement {
    let upper: Vec<String> = words.iter().take(8).map(|w| w.to_ascii_uppercase()).collect();
    let at = |i: usize| upper.get(i).map_or("", String::as_str);
    let any = |w: &str| words.iter().any(|x| x.eq_ignore_ascii_case(w));
    match (at(0), at(1)) {
        ("BEGIN", _) | ("START", "TRANSACTION") => Statement::Begin,
        ("COMMIT", _) => Statement::Commit,
        ("ROLLBACK", "TO") | ("SAVEPOINT", _) | ("RELEASE", _) => Statement::Savepoint,
        ("ROLLBACK", _) => Statement::Rollback,
        ("XA", "START" | "BEGIN") => Statement::XaStart,
        ("XA", "COMMIT" | "ROLLBACK") => Statement::XaDecide,
        ("XA", _) => Statement::XaEnd,
        ("INSERT" | "UPDATE" | "DELETE" | "REPLACE" | "LOAD" | "WITH" | "CALL" | "DO", _)
        | ("SELECT", _) => Statement::Write,
        ("TRUNCATE", _) => Statement::Truncate,
        ("DROP", "TABLE" | "DATABASE" | "SCHEMA" | "TABLES") | ("CREATE", "OR")
            if at(0) == "DROP" || any("TABLE") =>
        {
            Statement::Lossy
        }
        ("ALTER", _) if any("PARTITION") && (any("TRUNCATE") || any("DROP") || any("EXCHANGE")) => {
            Statement::Lossy
        }
        ("ALTER", "TABLE" | "ONLINE" | "IGNORE") => Statement::Alter,
        ("RENAME", _) => Statement::Rename,
        _ => Statement::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_quotes_do_not_hide_a_table() {
        let w = |s: &str| words(s);
        assert_eq!(w("TRUNCATE /* ; */ TABLE `a``b`"), ["TRUNCATE", "TABLE", "a`b"]);
        assert_eq!(w("ALTER TABLE t /*!50100 DROP x */"), ["ALTER", "TABLE", "t", "DROP", "x"]);
        assert_eq!(w("INSERT INTO t VALUES ('it''s \\' x', 1) -- y\n, z").last().unwrap(), "z");
        assert_eq!(classify(&w("/* c */ rename table a to b")), Statement::Rename);
        assert_eq!(
            classify(&w("DROP TABLE IF EXISTS `x` /* generated by server */")),
            Statement::Lossy
        );
        assert_eq!(classify(&w("CREATE OR REPLACE TABLE x AS SELECT 1")), Statement::Lossy);
        assert_eq!(classify(&w("CREATE OR REPLACE VIEW x AS SELECT 1")), Statement::Other);
        assert_eq!(classify(&w("DROP INDEX i ON t")), Statement::Other);
        assert_eq!(classify(&w("BEGIN")), Statement::Begin);
    }
}
