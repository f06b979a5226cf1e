//! The few messages of a server that walgate reads or writes itself, outside CopyBoth.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

use super::cursor::{Cursor, DecodeError, Fault};

/// An authentication request (`R`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// The client is in.
    Ok,
    /// The password as it is.
    CleartextPassword,
    /// The password hashed with this salt.
    Md5Password([u8; 4]),
    /// SASL, by one of these mechanisms.
    Sasl(Vec<&'a [u8]>),
    /// The server's next SASL message.
    SaslContinue(&'a [u8]),
    /// The server's last SASL message.
    SaslFinal(&'a [u8]),
    /// A method by its code: GSSAPI, SSPI and what is not known yet.
    Other(u32),
}

impl<'a> Authentication<'a> {
    /// Parses the body of an `R` message.
    pub fn parse(body: &'a [u8]) -> Result<Authentication<'a>, DecodeError> {
        let mut cursor = Cursor::new(body);
        let request = match cursor.u32("authentication code")? {
            0 => Authentication::Ok,
            3 => Authentication::CleartextPassword,
            5 => Authentication::Md5Password(cursor.take_array("md5 salt")?),
            10 => {
                let mut mechanisms = Vec::new();
                loop {
                    match cursor.cstr("SASL mechanism")? {
                        b"" => break Authentication::Sasl(mechanisms),
                        mechanism => mechanisms.push(mechanism),
                    }
                }
            }
            11 => Authentication::SaslContinue(cursor.take_rest()),
            12 => Authentication::SaslFinal(cursor.take_rest()),
            other => {
                cursor.take_rest();
                Authentication::Other(other)
            }
        };
        cursor.finish("authentication request").map(|()| request)
    }

    /// Appends a whole AuthenticationSASL message that offers these mechanisms.
    pub fn encode_sasl(mechanisms: &[&[u8]], message: &mut BytesMut) {
        put_message(message, b'R', |body| {
            body.put_u32(10);
            for mechanism in mechanisms {
                put_cstr(body, mechanism);
            }
            body.put_u8(0);
        });
    }
}

/// The fields of an ErrorResponse or NoticeResponse.
///
/// Text that is not UTF-8 is shown with replacement characters: this is for people, never passed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorFields<'a> {
    /// `ERROR`, `FATAL`, `PANIC` and so on, not translated.
    pub severity: Cow<'a, str>,
    /// The SQLSTATE.
    pub code: Cow<'a, str>,
    /// One line.
    pub message: Cow<'a, str>,
    /// More about it.
    pub detail: Option<Cow<'a, str>>,
    /// What to do.
    pub hint: Option<Cow<'a, str>>,
}

impl<'a> ErrorFields<'a> {
    /// An error that ends the session.
    pub fn fatal(code: &'a str, message: impl Into<Cow<'a, str>>) -> ErrorFields<'a> {
        ErrorFields { severity: "FATAL".into(), code: code.into(), message: message.into(), detail: None, hint: None }
    }

    /// The same with a hint.
    pub fn with_hint(self, hint: impl Into<Cow<'a, str>>) -> ErrorFields<'a> {
        ErrorFields { hint: Some(hint.into()), ..self }
    }

    /// Parses the body of an `E` or `N` message; fields of no use here are passed over.
    pub fn parse(body: &'a [u8]) -> Result<ErrorFields<'a>, DecodeError> {
        let mut cursor = Cursor::new(body);
        let mut fields = ErrorFields::default();
        let mut translated_severity = Cow::default();
        loop {
            let kind = cursor.u8("error field type")?;
            if kind == 0 {
                break;
            }
            let value = String::from_utf8_lossy(cursor.cstr("error field")?);
            match kind {
                b'S' => translated_severity = value,
                b'V' => fields.severity = value,
                b'C' => fields.code = value,
                b'M' => fields.message = value,
                b'D' => fields.detail = Some(value),
                b'H' => fields.hint = Some(value),
                _ => {}
            }
        }
        if fields.severity.is_empty() {
            fields.severity = translated_severity;
        }
        cursor.finish("error fields").map(|()| fields)
    }

    /// Appends a whole ErrorResponse message.
    pub fn encode(&self, message: &mut BytesMut) {
        put_message(message, b'E', |body| {
            let mut field = |kind: u8, value: &str| {
                body.put_u8(kind);
                put_cstr(body, value.as_bytes());
            };
            field(b'S', &self.severity);
            field(b'V', &self.severity);
            field(b'C', &self.code);
            field(b'M', &self.message);
            if let Some(detail) = &self.detail {
                field(b'D', detail);
            }
            if let Some(hint) = &self.hint {
                field(b'H', hint);
            }
            body.put_u8(0);
        });
    }
}

/// Appends a message: tag, length, and the body that `write` appends.
pub fn put_message(message: &mut BytesMut, tag: u8, write: impl FnOnce(&mut BytesMut)) {
    message.put_u8(tag);
    let start = message.len();
    message.put_u32(0);
    write(message);
    let length = (message.len() - start) as u32;
    if let Some((_, from_length)) = message.split_at_mut_checked(start)
        && let Some(field) = from_length.first_chunk_mut()
    {
        *field = length.to_be_bytes();
    }
}

/// Checks a SASLInitialResponse (`p`): whether the client binds the channel, or says that it could.
///
/// A GS2 header of `p=` binds; `y` says "I can, and believe that the server cannot" (RFC 5802, section 6).
pub fn binds_channel(body: &[u8]) -> Result<bool, DecodeError> {
    let mut cursor = Cursor::new(body);
    let mechanism = cursor.cstr("SASL mechanism")?;
    let len = cursor.i32("SASL response length")?;
    if len < -1 {
        return Err(cursor.error(Fault::Length(len.into()), "SASL response length"));
    }
    Ok(mechanism == b"SCRAM-SHA-256-PLUS" || cursor.rest().first() == Some(&b'y'))
}

fn put_cstr(body: &mut BytesMut, text: &[u8]) {
    // A zero byte would end the string early and garble all that follows.
    body.extend(text.iter().filter(|&&byte| byte != 0));
    body.put_u8(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What PostgreSQL 15 answers to a wrong password.
    const WRONG_PASSWORD: &[u8] = b"SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed for user \"app\"\0\
        Fauth.c\0L326\0Rauth_failed\0\0";

    #[test]
    fn error_fields_of_a_server() {
        let fields = ErrorFields::parse(WRONG_PASSWORD).unwrap();
        assert_eq!((&*fields.severity, &*fields.code), ("FATAL", "28P01"));
        assert_eq!(fields.message, "password authentication failed for user \"app\"");
        for len in 0..WRONG_PASSWORD.len() {
            assert!(ErrorFields::parse(&WRONG_PASSWORD[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn an_error_reads_as_it_was_written() {
        let error = ErrorFields::fatal("53300", "too many\0 sessions").with_hint("wait");
        let mut message = BytesMut::new();
        error.encode(&mut message);
        assert_eq!(message[0], b'E');
        assert_eq!(u32::from_be_bytes(message[1..5].try_into().unwrap()) as usize, message.len() - 1);
        let read = ErrorFields::parse(&message[5..]).unwrap();
        assert_eq!(read.message, "too many sessions");
        assert_eq!(read, ErrorFields { message: read.message.clone(), ..error });
    }

    #[test]
    fn authentication_requests() {
        let offer = b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
        let mechanisms = vec![&b"SCRAM-SHA-256-PLUS"[..], b"SCRAM-SHA-256"];
        assert_eq!(Authentication::parse(offer), Ok(Authentication::Sasl(mechanisms.clone())));
        let mut message = BytesMut::new();
        Authentication::encode_sasl(&mechanisms, &mut message);
        assert_eq!(&message[5..], offer);
        assert_eq!(Authentication::parse(b"\0\0\0\0"), Ok(Authentication::Ok));
        assert_eq!(Authentication::parse(b"\0\0\0\x05abcd"), Ok(Authentication::Md5Password(*b"abcd")));
        assert_eq!(Authentication::parse(b"\0\0\0\x07"), Ok(Authentication::Other(7)));
        assert!(Authentication::parse(b"\0\0\0\0x").is_err());
        for len in 0..offer.len() {
            assert!(Authentication::parse(&offer[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn channel_binding_is_seen_in_the_clients_first_message() {
        assert_eq!(binds_channel(b"SCRAM-SHA-256-PLUS\0\0\0\0\x04p=tl"), Ok(true));
        assert_eq!(binds_channel(b"SCRAM-SHA-256\0\0\0\0\x04y,,n"), Ok(true));
        assert_eq!(binds_channel(b"SCRAM-SHA-256\0\0\0\0\x04n,,n"), Ok(false));
        assert!(binds_channel(b"SCRAM-SHA-256\0\0\0").is_err());
    }
}
