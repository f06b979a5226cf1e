//! How the values of the file are read: strings in which variables of the environment are expanded, and what they spell.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Deserializer};
use toml::Spanned;

use super::MAX_SESSIONS;
use crate::identity::RuleSet;
use crate::proxy::ListenAddr;
use crate::source::dsn::SystemEnvironment;
use crate::source::{Connector, Dsn};
use crate::units;

/// A string in which `${NAME}` stands for an environment variable and `$$` for a dollar sign.
pub(super) fn expand(text: &str) -> Result<String, String> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('$') {
        expanded.push_str(before);
        rest = if let Some(behind) = behind.strip_prefix('$') {
            expanded.push('$');
            behind
        } else if let Some((name, behind)) = behind.strip_prefix('{').and_then(|behind| behind.split_once('}')) {
            match std::env::var(name) {
                Ok(value) => expanded.push_str(&value),
                Err(_) => return Err(format!("${{{name}}} is not set in the environment")),
            }
            behind
        } else {
            return Err("a $ begins a variable like ${NAME}; write $$ for a dollar sign".into());
        };
    }
    expanded.push_str(rest);
    Ok(expanded)
}

pub(super) fn as_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    expand(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

pub(super) fn parsed<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(deserializer: D) -> Result<T, D::Error> {
    as_text(deserializer)?.parse().map_err(de::Error::custom)
}

pub(super) fn as_some<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    parsed(deserializer).map(Some)
}

pub(super) fn as_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    as_text(deserializer).map(|path| Some(path.into()))
}

pub(super) fn as_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    units::duration(&as_text(deserializer)?).map_err(de::Error::custom)
}

pub(super) fn as_rule_sets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<RuleSet>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    names
        .iter()
        .map(|name| expand(name)?.parse().map_err(String::from))
        .collect::<Result<_, _>>()
        .map_err(de::Error::custom)
}

pub(super) fn as_sessions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    match usize::deserialize(deserializer)? {
        sessions @ 1..=MAX_SESSIONS => Ok(sessions),
        _ => Err(de::Error::custom("expected a number from 1 on")),
    }
}

pub(super) fn as_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Spanned<String>, D::Error> {
    let name = Spanned::<String>::deserialize(deserializer)?;
    let span = name.span();
    match expand(name.get_ref()).map_err(de::Error::custom)? {
        name if name.is_empty() => Err(de::Error::custom("is empty")),
        name => Ok(Spanned::new(span, name)),
    }
}

pub(super) fn as_listen<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Spanned<ListenAddr>>, D::Error> {
    let text = Spanned::<String>::deserialize(deserializer)?;
    let address = expand(text.get_ref()).map_err(de::Error::custom)?.parse().map_err(de::Error::custom)?;
    Ok(Some(Spanned::new(text.span(), address)))
}

pub(super) fn as_connector<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Connector, D::Error> {
    let text = as_text(deserializer)?;
    if text.trim().is_empty() {
        return Err(de::Error::custom("is empty; expected a connection string, like postgresql://walgate@db/app"));
    }
    let dsn = Dsn::from_argument(Some(&text), &SystemEnvironment).map_err(de::Error::custom)?;
    Connector::new(dsn).map_err(de::Error::custom)
}
