//! The two written forms of a connection string, as libpq reads them (`conninfo_parse` and
//! `conninfo_uri_parse_options` in `fe-connect.c`): both become a list of keys and values.

use percent_encoding::percent_decode_str;

use super::error::DsnError;
use super::keyword::{self, Keyword};

/// A key and what it was set to.
pub(super) type Setting = (&'static Keyword, String);

/// Reads either form, in the order written; of two settings of one key the later counts.
pub(super) fn parse(text: &str) -> Result<Vec<Setting>, DsnError> {
    match text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
        Some(rest) => uri(rest),
        None => key_values(text),
    }
}

/// `host=a password='it\'s' …`
fn key_values(text: &str) -> Result<Vec<Setting>, DsnError> {
    let position = |rest: &str| text.chars().count() - rest.chars().count() + 1;
    let mut settings = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let at = position(rest);
        let end = rest.find(|c: char| c == '=' || c.is_ascii_whitespace()).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let value = after.trim_start().strip_prefix('=').ok_or(DsnError::MissingEquals { at })?;
        let keyword = keyword::find(name).ok_or_else(|| DsnError::UnknownKey {
            place: format!("character {at} of the connection string"),
            nearest: keyword::nearest(name),
        })?;
        let (value, after) = read_value(value.trim_start(), position)?;
        settings.push((keyword, value));
        rest = after.trim_start();
    }
    Ok(settings)
}

/// One value, quoted or up to white space, and what follows it. A backslash takes the next character as it is.
fn read_value(text: &str, position: impl Fn(&str) -> usize) -> Result<(String, &str), DsnError> {
    let (body, quoted) = match text.strip_prefix('\'') {
        Some(body) => (body, true),
        None => (text, false),
    };
    let mut value = String::new();
    let mut chars = body.chars();
    loop {
        let rest = chars.as_str();
        match chars.next() {
            Some('\\') => value.extend(chars.next()),
            Some('\'') if quoted => return Ok((value, chars.as_str())),
            Some(c) if !quoted && c.is_ascii_whitespace() => return Ok((value, rest)),
            Some(c) => value.push(c),
            None if quoted => return Err(DsnError::UnterminatedQuote { at: position(text) }),
            None => return Ok((value, "")),
        }
    }
}

/// `user:password@host:port,host:port/dbname?key=value&…`, what follows `postgresql://`.
fn uri(text: &str) -> Result<Vec<Setting>, DsnError> {
    let mut settings = Vec::new();
    let mut set = |name: &str, value: &str| -> Result<(), DsnError> {
        if let (Some(keyword), false) = (keyword::find(name), value.is_empty()) {
            settings.push((keyword, decode(value)?));
        }
        Ok(())
    };

    let rest = match text.split_once('@').filter(|(user_info, _)| !user_info.contains('/')) {
        Some((user_info, rest)) => {
            let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
            set("user", user)?;
            set("password", password)?;
            rest
        }
        None => text,
    };

    let (location, query) = rest.split_once('?').unwrap_or((rest, ""));
    // libpq would take such an @ as part of a host's or database's name. It is far likelier that a password holds
    // the @, or the / before it, unescaped, and then the rest of the password would go to a resolver or a log.
    if location.contains('@') {
        return Err(DsnError::Uri { problem: "has an @ that is not the end of user and password" });
    }
    let (authority, dbname) = location.split_once('/').unwrap_or((location, ""));
    let (hosts, ports) = authority_lists(authority)?;
    set("host", &hosts)?;
    set("port", &ports)?;
    set("dbname", dbname)?;

    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').ok_or(DsnError::Uri { problem: "has a parameter without =" })?;
        if value.contains('=') {
            return Err(DsnError::Uri { problem: "has a parameter with two =" });
        }
        let (name, value) = (decode(name)?, decode(value)?);
        // The spelling that JDBC users know.
        let (name, value) =
            if name == "ssl" && value == "true" { ("sslmode", "require".into()) } else { (&*name, value) };
        let keyword = keyword::find(name).ok_or_else(|| DsnError::UnknownKey {
            place: "the query of the connection URI".into(),
            nearest: keyword::nearest(name),
        })?;
        settings.push((keyword, value));
    }
    Ok(settings)
}

/// The hosts and the ports of an authority as the two comma-separated lists they mean.
fn authority_lists(authority: &str) -> Result<(String, String), DsnError> {
    let (mut hosts, mut ports) = (String::new(), String::new());
    let mut rest = authority;
    loop {
        if let Some(bracketed) = rest.strip_prefix('[') {
            let (address, after) = bracketed.split_once(']').ok_or(DsnError::Uri { problem: "has a [ without ]" })?;
            if address.is_empty() || !(after.is_empty() || after.starts_with([':', ','])) {
                return Err(DsnError::Uri { problem: "has no IPv6 address, or something behind it, at [ ]" });
            }
            hosts.push_str(address);
            rest = after;
        } else {
            let (host, after) = rest.split_at(rest.find([':', ',']).unwrap_or(rest.len()));
            hosts.push_str(host);
            rest = after;
        }
        if let Some(after) = rest.strip_prefix(':') {
            let (port, after) = after.split_at(after.find(',').unwrap_or(after.len()));
            ports.push_str(port);
            rest = after;
        }
        match rest.strip_prefix(',') {
            Some(next) => {
                hosts.push(',');
                ports.push(',');
                rest = next;
            }
            None => return Ok((hosts, ports)),
        }
    }
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Result<String, DsnError> {
    let well_formed = text.split('%').skip(1).all(|after| {
        let digits = after.as_bytes().get(..2).unwrap_or_default();
        digits.len() == 2 && digits.iter().all(u8::is_ascii_hexdigit) && digits != b"00"
    });
    if !well_formed {
        return Err(DsnError::Uri { problem: "has a % that two hexadecimal digits other than 00 do not follow" });
    }
    match percent_decode_str(text).decode_utf8() {
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => Err(DsnError::Uri { problem: "is not UTF-8 when its percent-encoding is undone" }),
    }
}
