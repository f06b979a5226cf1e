//! Replication commands, as `repl_scanner.l` and `repl_gram.y` read them: keywords in capitals only, other
//! names folded to lower case unless quoted, any white space between.

use crate::lsn::Lsn;

/// A command of the streaming replication protocol, or the SQL that a walsender in a database takes as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `IDENTIFY_SYSTEM`
    IdentifySystem,
    /// `SHOW name`
    Show(String),
    /// `TIMELINE_HISTORY tli`
    TimelineHistory(u32),
    /// `CREATE_REPLICATION_SLOT …`
    CreateReplicationSlot(CreateReplicationSlot),
    /// `START_REPLICATION …`
    StartReplication(StartReplication),
    /// `BASE_BACKUP`, `READ_`, `ALTER_` and `DROP_REPLICATION_SLOT`, `UPLOAD_MANIFEST`: passed by.
    Other,
    /// Anything that does not begin like a replication command.
    Sql,
}

/// `CREATE_REPLICATION_SLOT slot [TEMPORARY] { PHYSICAL | LOGICAL plugin } …`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateReplicationSlot {
    /// The slot's name.
    pub slot: String,
    /// It goes with the connection.
    pub temporary: bool,
    /// The output plugin; `None` for a physical slot.
    pub plugin: Option<String>,
}

/// `START_REPLICATION [SLOT slot] { PHYSICAL | LOGICAL } X/X …`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartReplication {
    /// The slot; a physical stream may do without.
    pub slot: Option<String>,
    /// Where the client wants to start.
    pub start: Lsn,
    /// What is streamed.
    pub mode: Mode,
}

/// What a walsender streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// WAL as it is, of a timeline.
    Physical {
        /// The timeline; the current one where none is given.
        timeline: Option<u32>,
    },
    /// What an output plugin makes of it.
    Logical {
        /// The plugin's options in the order given, names as the server folds them.
        options: Vec<(String, Option<String>)>,
    },
}

impl Mode {
    /// The value of a plugin option, `Some(None)` for one without a value.
    pub fn option(&self, name: &str) -> Option<Option<&str>> {
        match self {
            Mode::Physical { .. } => None,
            Mode::Logical { options } => options.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_deref()),
        }
    }
}

/// A replication command that the server will not understand either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in a replication command at byte {offset}: expected {expected}")]
pub struct CommandError {
    /// What would have been right.
    pub expected: &'static str,
    /// Bytes from the start of the command.
    pub offset: usize,
}

impl Command {
    /// Parses the text of a simple query on a replication connection.
    pub fn parse(text: &str) -> Result<Command, CommandError> {
        let mut scanner = Scanner { text, rest: text };
        let Ok(Some(Token::Word { raw: keyword, .. })) = scanner.next() else { return Ok(Command::Sql) };
        let command = match keyword {
            "IDENTIFY_SYSTEM" => Command::IdentifySystem,
            "SHOW" => Command::Show(scanner.dotted_name()?),
            "TIMELINE_HISTORY" => Command::TimelineHistory(scanner.number("a timeline")?),
            "CREATE_REPLICATION_SLOT" => return scanner.create_slot().map(Command::CreateReplicationSlot),
            "START_REPLICATION" => Command::StartReplication(scanner.start_replication()?),
            "BASE_BACKUP"
            | "READ_REPLICATION_SLOT"
            | "ALTER_REPLICATION_SLOT"
            | "DROP_REPLICATION_SLOT"
            | "UPLOAD_MANIFEST" => return Ok(Command::Other),
            _ => return Ok(Command::Sql),
        };
        scanner.end()?;
        Ok(command)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token<'a> {
    /// A keyword or a plain name: as written, and as a name.
    Word {
        raw: &'a str,
        name: String,
    },
    Quoted(String),
    Text(String),
    Number(u32),
    Position(Lsn),
    Symbol(char),
}

#[derive(Clone)]
struct Scanner<'a> {
    text: &'a str,
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    fn create_slot(&mut self) -> Result<CreateReplicationSlot, CommandError> {
        let slot = self.name("a slot name")?;
        let temporary = self.accept_keyword("TEMPORARY")?;
        let plugin = if self.accept_keyword("PHYSICAL")? {
            None
        } else {
            self.keyword("LOGICAL", "PHYSICAL or LOGICAL")?;
            Some(self.name("an output plugin")?)
        };
        // The options that follow change with the server's version; none of them matters here.
        Ok(CreateReplicationSlot { slot, temporary, plugin })
    }

    fn start_replication(&mut self) -> Result<StartReplication, CommandError> {
        let slot = if self.accept_keyword("SLOT")? { Some(self.name("a slot name")?) } else { None };
        if slot.is_some() && self.accept_keyword("LOGICAL")? {
            let start = self.position()?;
            let options = self.plugin_options()?;
            return Ok(StartReplication { slot, start, mode: Mode::Logical { options } });
        }
        self.accept_keyword("PHYSICAL")?;
        let start = self.position()?;
        let timeline = if self.accept_keyword("TIMELINE")? { Some(self.number("a timeline")?) } else { None };
        Ok(StartReplication { slot, start, mode: Mode::Physical { timeline } })
    }

    fn plugin_options(&mut self) -> Result<Vec<(String, Option<String>)>, CommandError> {
        let mut options = Vec::new();
        if !self.accept(&Token::Symbol('('))? {
            return Ok(options);
        }
        loop {
            let name = self.name("an option name")?;
            let mut ahead = self.clone();
            let value = match ahead.next()? {
                Some(Token::Text(value)) => {
                    *self = ahead;
                    Some(value)
                }
                _ => None,
            };
            options.push((name, value));
            if self.accept(&Token::Symbol(')'))? {
                return Ok(options);
            }
            if !self.accept(&Token::Symbol(','))? {
                return Err(self.error("a string, a comma or a closing parenthesis"));
            }
        }
    }

    /// `name { . name }`, as a setting is named.
    fn dotted_name(&mut self) -> Result<String, CommandError> {
        let mut name = self.name("a setting")?;
        while self.accept(&Token::Symbol('.'))? {
            name.push('.');
            name.push_str(&self.name("a setting")?);
        }
        Ok(name)
    }

    fn name(&mut self, expected: &'static str) -> Result<String, CommandError> {
        let error = self.error(expected);
        match self.next()? {
            Some(Token::Word { name, .. } | Token::Quoted(name)) => Ok(name),
            _ => Err(error),
        }
    }

    fn number(&mut self, expected: &'static str) -> Result<u32, CommandError> {
        let error = self.error(expected);
        match self.next()? {
            Some(Token::Number(number)) => Ok(number),
            _ => Err(error),
        }
    }

    fn position(&mut self) -> Result<Lsn, CommandError> {
        let error = self.error("a WAL position");
        match self.next()? {
            Some(Token::Position(lsn)) => Ok(lsn),
            _ => Err(error),
        }
    }

    fn keyword(&mut self, keyword: &str, expected: &'static str) -> Result<(), CommandError> {
        let error = self.error(expected);
        if self.accept_keyword(keyword)? { Ok(()) } else { Err(error) }
    }

    fn accept_keyword(&mut self, keyword: &str) -> Result<bool, CommandError> {
        let mut ahead = self.clone();
        let accepted = matches!(ahead.next()?, Some(Token::Word { raw, .. }) if raw == keyword);
        if accepted {
            *self = ahead;
        }
        Ok(accepted)
    }

    fn accept(&mut self, token: &Token<'_>) -> Result<bool, CommandError> {
        let mut ahead = self.clone();
        let accepted = ahead.next()?.as_ref() == Some(token);
        if accepted {
            *self = ahead;
        }
        Ok(accepted)
    }

    /// An optional semicolon, then nothing.
    fn end(&mut self) -> Result<(), CommandError> {
        self.accept(&Token::Symbol(';'))?;
        let error = self.error("the end of the command");
        match self.next()? {
            None => Ok(()),
            Some(_) => Err(error),
        }
    }

    fn next(&mut self) -> Result<Option<Token<'a>>, CommandError> {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0c', '\x0b']);
        let Some(first) = self.rest.chars().next() else { return Ok(None) };
        let token = match first {
            '"' => Token::Quoted(self.quoted('"', "a closing double quote")?),
            '\'' => Token::Text(self.quoted('\'', "a closing quote")?),
            '(' | ')' | ',' | ';' | '.' => {
                self.rest = self.rest.split_at(1).1;
                Token::Symbol(first)
            }
            _ => {
                let end = |character: char| !(is_name(character) || character == '/');
                let (word, rest) = self.rest.split_at(self.rest.find(end).unwrap_or(self.rest.len()));
                let token = classify(word).ok_or_else(|| self.error("a name, a number or a WAL position"))?;
                self.rest = rest;
                token
            }
        };
        Ok(Some(token))
    }

    /// Text up to the closing quote, a doubled quote standing for one.
    fn quoted(&mut self, quote: char, expected: &'static str) -> Result<String, CommandError> {
        let mut content = String::new();
        let mut rest = self.rest.split_at(1).1;
        loop {
            let (piece, behind) = rest.split_once(quote).ok_or_else(|| self.error(expected))?;
            content.push_str(piece);
            match behind.strip_prefix(quote) {
                Some(behind) => {
                    content.push(quote);
                    rest = behind;
                }
                None => {
                    self.rest = behind;
                    return Ok(content);
                }
            }
        }
    }

    fn error(&self, expected: &'static str) -> CommandError {
        CommandError { expected, offset: self.text.len() - self.rest.len() }
    }
}

fn is_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_' || character == '$' || !character.is_ascii()
}

fn classify(word: &str) -> Option<Token<'_>> {
    if word.contains('/') {
        return word.parse().ok().map(Token::Position);
    }
    let first = word.chars().next()?;
    if first.is_ascii_digit() {
        return word.parse().ok().map(Token::Number);
    }
    (first != '$').then(|| Token::Word { raw: word, name: word.to_ascii_lowercase() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(text: &str) -> StartReplication {
        match Command::parse(text) {
            Ok(Command::StartReplication(start)) => start,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn the_command_of_zero_cache_with_its_line_breaks() {
        let command = start(
            "\n      START_REPLICATION SLOT \"zero_0_a\" LOGICAL 0/16B3748 (\n        proto_version '1', \n        \
             publication_names '_zero_metadata_0,_zero_public_0', \n        messages 'true'\n      )",
        );
        assert_eq!(command.slot.as_deref(), Some("zero_0_a"));
        assert_eq!(command.start, Lsn(0x16b_3748));
        assert_eq!(command.mode.option("proto_version"), Some(Some("1")));
        assert_eq!(command.mode.option("messages"), Some(Some("true")));
        assert_eq!(command.mode.option("streaming"), None);
    }

    #[test]
    fn the_command_of_a_native_subscription() {
        let command = start(
            "START_REPLICATION SLOT \"sub\" LOGICAL 0/0 (proto_version '4', streaming 'parallel', origin 'any', \
             publication_names '\"a,b\",\"it''s\"', binary 'true')",
        );
        assert_eq!(command.mode.option("publication_names"), Some(Some("\"a,b\",\"it's\"")));
        assert_eq!(command.start, Lsn::INVALID);
    }

    #[test]
    fn physical_streams_with_and_without_a_slot() {
        let walreceiver = start("START_REPLICATION SLOT \"standby\" 0/3000000 TIMELINE 2");
        assert_eq!(walreceiver.mode, Mode::Physical { timeline: Some(2) });
        assert_eq!(walreceiver.slot.as_deref(), Some("standby"));
        let without = start("START_REPLICATION PHYSICAL 1/A0 ;");
        assert_eq!((without.slot, without.start), (None, Lsn(0x1_0000_00a0)));
    }

    #[test]
    fn names_fold_and_quoted_ones_do_not() {
        assert_eq!(start("START_REPLICATION SLOT Foo LOGICAL 0/0").slot.as_deref(), Some("foo"));
        assert_eq!(start("START_REPLICATION SLOT \"a\"\"B\" LOGICAL 0/0").slot.as_deref(), Some("a\"B"));
        let command = start("START_REPLICATION SLOT s LOGICAL 0/0 (\"include-xids\" '0', FORCE)");
        assert_eq!(command.mode.option("include-xids"), Some(Some("0")));
        assert_eq!(command.mode.option("force"), Some(None));
    }

    #[test]
    fn the_other_commands() {
        assert_eq!(Command::parse("IDENTIFY_SYSTEM"), Ok(Command::IdentifySystem));
        assert_eq!(Command::parse("SHOW wal_level;"), Ok(Command::Show("wal_level".into())));
        assert_eq!(Command::parse("SHOW a.b"), Ok(Command::Show("a.b".into())));
        assert_eq!(Command::parse("TIMELINE_HISTORY 7"), Ok(Command::TimelineHistory(7)));
        assert_eq!(Command::parse("DROP_REPLICATION_SLOT x WAIT"), Ok(Command::Other));
        assert_eq!(Command::parse("BASE_BACKUP ( LABEL 'x',  PROGRESS)"), Ok(Command::Other));
        for text in [
            "CREATE_REPLICATION_SLOT \"s\" TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT",
            "CREATE_REPLICATION_SLOT s\tTEMPORARY LOGICAL pgoutput (SNAPSHOT 'nothing')",
        ] {
            let plugin = Some("pgoutput".into());
            let expected = CreateReplicationSlot { slot: "s".into(), temporary: true, plugin };
            assert_eq!(Command::parse(text), Ok(Command::CreateReplicationSlot(expected)));
        }
        let physical = Command::parse("CREATE_REPLICATION_SLOT p PHYSICAL RESERVE_WAL");
        assert!(matches!(physical, Ok(Command::CreateReplicationSlot(slot)) if slot.plugin.is_none()));
    }

    #[test]
    fn what_does_not_begin_like_a_command_is_sql() {
        for text in ["SELECT 1", "start_replication", "", "  ", "(", "/* c */ SELECT 1", "'", "1"] {
            assert_eq!(Command::parse(text), Ok(Command::Sql), "{text}");
        }
    }

    #[test]
    fn a_broken_command_says_what_was_expected_and_where() {
        for (text, expected, offset) in [
            ("START_REPLICATION SLOT", "a slot name", 22),
            ("START_REPLICATION SLOT s LOGICAL", "a WAL position", 32),
            ("START_REPLICATION SLOT s LOGICAL 0/0 (a 'b'", "a string, a comma or a closing parenthesis", 43),
            ("START_REPLICATION SLOT s LOGICAL 0/0 (a 'b", "a closing quote", 40),
            ("START_REPLICATION SLOT s LOGICAL 0/0 x", "the end of the command", 36),
            ("START_REPLICATION LOGICAL 0/0", "a WAL position", 17),
            ("TIMELINE_HISTORY 99999999999", "a name, a number or a WAL position", 17),
            ("CREATE_REPLICATION_SLOT s pgoutput", "PHYSICAL or LOGICAL", 25),
        ] {
            let error = Command::parse(text).unwrap_err();
            assert_eq!(error.expected, expected, "{text}");
            assert!(error.offset.abs_diff(offset) <= 1, "{text}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "(START_REPLICATION |SLOT |LOGICAL |\"|'|[a-z]|é|0/0| |\\(|\\)|,|;){0,20}") {
            let _ = Command::parse(&text);
        }

        #[test]
        fn any_slot_and_option_value_survives_quoting(slot in ".{0,20}", value in ".{0,20}") {
            let text = format!(
                "START_REPLICATION SLOT \"{}\" LOGICAL 0/0 (o '{}')",
                slot.replace('"', "\"\""),
                value.replace('\'', "''"),
            );
            let command = start(&text);
            proptest::prop_assert_eq!(command.slot, Some(slot));
            proptest::prop_assert_eq!(command.mode.option("o"), Some(Some(value.as_str())));
        }
    }
}
