//! The console's language: `SHOW` and a word, whatever the case, with comments and semicolons; and what clients say
//! unasked.

use super::show::Show;
use super::table::Kind;
use crate::wire::backend::ErrorFields;

/// A statement that is understood.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Command {
    Show(Show),
    /// Drivers set things as they connect; nothing of it matters here.
    Set,
    /// What psql asks for `\gdesc`: the names and types that it was told of, in words.
    Describe(Vec<(String, String)>),
    /// Nothing but comments.
    Empty,
}

/// Every statement of a text.
pub(super) fn parse_all(text: &str) -> Vec<Result<Command, ErrorFields<'static>>> {
    split(text).iter().map(|statement| parse_statement(statement)).collect()
}

/// The one statement of a text.
pub(super) fn parse(text: &str) -> Result<Command, ErrorFields<'static>> {
    match split(text).as_slice() {
        [] => Ok(Command::Empty),
        [one] => parse_statement(one),
        _ => Err(error("42601", "cannot insert multiple commands into a prepared statement")),
    }
}

/// An error that leaves the session as it is.
pub(super) fn error(code: &'static str, message: impl Into<String>) -> ErrorFields<'static> {
    ErrorFields { severity: "ERROR".into(), ..ErrorFields::fatal(code, message.into()) }
}

fn parse_statement(text: &str) -> Result<Command, ErrorFields<'static>> {
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower.split_whitespace().collect();
    match *words.as_slice() {
        ["show", name] if let Some(show) = Show::named(name) => Ok(Command::Show(show)),
        ["set", ..] => Ok(Command::Set),
        ["begin" | "start" | "commit" | "end" | "rollback" | "abort" | "savepoint" | "release", ..] => {
            Err(error("0A000", "the console has no transactions")
                .with_hint("Let the client connect in autocommit mode."))
        }
        ["select", ..] if let Some(columns) = parse_gdesc(text) => Ok(Command::Describe(columns)),
        _ => {
            let mut shown: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
            if let Some((end, _)) = shown.char_indices().nth(80) {
                shown.truncate(end);
                shown.push('…');
            }
            Err(error("42601", format!("unknown command: {shown}")).with_hint("SHOW HELP lists the commands."))
        }
    }
}

/// The query that psql sends for `\gdesc` (`describe.c`'s DescribeQuery): a table of names and type OIDs, for the
/// server to put into words.
fn parse_gdesc(text: &str) -> Option<Vec<(String, String)>> {
    let (head, rest) = text.split_once("(VALUES")?;
    if !head.contains("pg_catalog.format_type(tp, tpm)") {
        return None;
    }
    // No name of a column here has spaces, or anything that is quoted.
    let rest: String = rest.split_whitespace().collect();
    let values = rest.strip_prefix('(')?.strip_suffix("))s(name,tp,tpm)")?;
    let column = |value: &str| {
        let (name, oid) = value.strip_prefix('\'')?.split_once("','")?;
        let oid: u32 = oid.split_once('\'')?.0.parse().ok()?;
        let kinds = [Kind::Text, Kind::Int8, Kind::Float8, Kind::Bool, Kind::PgLsn, Kind::Timestamptz];
        let kind = kinds.into_iter().find(|kind| kind.oid() == oid)?;
        Some((name.to_owned(), kind.name().to_owned()))
    };
    values.split("),(").map(column).collect()
}

/// The statements of a text, without comments and what separates them; those with nothing in them are left out.
fn split(text: &str) -> Vec<String> {
    let mut statements = Vec::new();
    let mut statement = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let len = match first {
            '-' if rest.starts_with("--") => {
                statement.push(' ');
                rest = rest.find('\n').and_then(|end| rest.get(end..)).unwrap_or_default();
                continue;
            }
            '/' if rest.starts_with("/*") => {
                statement.push(' ');
                rest = behind_comment(rest);
                continue;
            }
            ';' => {
                statements.push(std::mem::take(&mut statement));
                rest = rest.get(1..).unwrap_or_default();
                continue;
            }
            // A doubled quote is an end and a beginning, which comes to the same here.
            quote @ ('\'' | '"') => {
                let end = rest.char_indices().skip(1).find(|&(_, c)| c == quote).map(|(at, _)| at + 1);
                end.unwrap_or(rest.len())
            }
            other => other.len_utf8(),
        };
        let (taken, behind) = rest.split_at(len);
        statement.push_str(taken);
        rest = behind;
    }
    statements.push(statement);
    statements.retain(|statement| !statement.trim().is_empty());
    statements.iter().map(|statement| statement.trim().to_owned()).collect()
}

/// What is behind a comment, which may hold others; nothing, if it does not end.
fn behind_comment(text: &str) -> &str {
    let mut depth = 0usize;
    let mut bytes = text.as_bytes().windows(2).enumerate();
    while let Some((at, pair)) = bytes.next() {
        match pair {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => continue,
        }
        if depth == 0 {
            return text.get(at + 2..).unwrap_or_default();
        }
        bytes.next();
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_understood_in_any_case_with_comments_and_semicolons() {
        for text in
            ["SHOW LAG", "show lag;", " Show\n\tLag ;; ", "-- hi\nshow /* a /* b */ c */ lag -- end", "show lag;--"]
        {
            assert_eq!(parse(text), Ok(Command::Show(Show::Lag)), "{text:?}");
        }
        assert_eq!(parse("SET x = 'a;''b'"), Ok(Command::Set));
        for text in ["", " ", ";", "--", "/* never ends", "/*/", "/**/;"] {
            assert_eq!(parse(text), Ok(Command::Empty), "{text:?}");
        }
        assert_eq!(parse_all("show lag; show slots;").len(), 2);
    }

    #[test]
    fn what_is_not_understood_is_an_error_that_names_help() {
        for text in ["show", "show lags", "lag", "select 1", "show lag now", "'", "\"", "é", "show server_version"] {
            let error = parse(text).unwrap_err();
            assert_eq!((&*error.code, &*error.severity), ("42601", "ERROR"), "{text:?}");
            assert!(error.hint.as_ref().is_some_and(|hint| hint.contains("SHOW HELP")), "{text:?}");
        }
        assert_eq!(parse("BEGIN").unwrap_err().code, "0A000");
        assert_eq!(parse("show lag; show lag").unwrap_err().code, "42601");
        assert!(parse(&"é".repeat(1000)).unwrap_err().message.len() < 300);
    }

    #[test]
    fn psqls_gdesc_is_answered() {
        let text = "SELECT name AS \"Column\", pg_catalog.format_type(tp, tpm) AS \"Type\"\nFROM (VALUES \
            ('source', '25'::pg_catalog.oid, -1), ('bytes', '20'::pg_catalog.oid, -1)) s(name, tp, tpm)";
        let columns = vec![("source".into(), "text".into()), ("bytes".into(), "bigint".into())];
        assert_eq!(parse(text), Ok(Command::Describe(columns)));
    }
}
