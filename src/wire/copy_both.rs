//! What travels inside CopyData while WAL is streamed (manual, "Streaming Replication Protocol").

use bytes::{BufMut, BytesMut};

use super::cursor::{Cursor, DecodeError, Fault};
use crate::lsn::Lsn;
use crate::time::PgTimestamp;

/// Bytes in front of an XLogData's payload, its tag included.
pub const XLOG_DATA_HEADER: usize = 25;

/// A message from the walsender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalMessage<'a> {
    /// `w`: a piece of WAL, or one message of an output plugin.
    XLogData(XLogData<'a>),
    /// `k`: where the walsender is.
    Keepalive(Keepalive),
}

/// WAL, or a message of an output plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XLogData<'a> {
    /// Where the data lies in the WAL.
    pub wal_start: Lsn,
    /// The end of WAL on a physical stream; on a logical one the same as `wal_start`.
    pub wal_end: Lsn,
    /// The server's clock when it sent this.
    pub send_time: PgTimestamp,
    /// The payload, as far as the caller has it.
    pub data: &'a [u8],
}

/// A sign of life from the walsender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Everything that committed below this has been decoded and put on the wire.
    pub wal_end: Lsn,
    /// The server's clock when it sent this.
    pub send_time: PgTimestamp,
    /// The server wants a status update now, or it will end the connection.
    pub reply_requested: bool,
}

/// A message from the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiverMessage {
    /// `r`: how far the receiver is.
    StatusUpdate(StatusUpdate),
    /// `h`: the oldest transactions a standby still reads.
    HotStandbyFeedback(HotStandbyFeedback),
}

/// How far a receiver is. `0/0` means that it gives no position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusUpdate {
    /// Received and written.
    pub write: Lsn,
    /// Stored safely: what the server may forget.
    pub flush: Lsn,
    /// Visible to readers.
    pub apply: Lsn,
    /// The receiver's clock when it sent this.
    pub send_time: PgTimestamp,
    /// The receiver wants a keepalive now.
    pub reply_requested: bool,
}

/// What a standby asks the server to keep from vacuum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HotStandbyFeedback {
    /// The standby's clock when it sent this.
    pub send_time: PgTimestamp,
    /// The oldest transaction id in use, 0 for none.
    pub xmin: u32,
    /// Its epoch.
    pub xmin_epoch: u32,
    /// The oldest catalog transaction id in use by slots, 0 for none.
    pub catalog_xmin: u32,
    /// Its epoch.
    pub catalog_xmin_epoch: u32,
}

impl<'a> WalMessage<'a> {
    /// Parses the body of a CopyData frame. Of a long XLogData, the first [`XLOG_DATA_HEADER`] bytes suffice.
    #[inline]
    pub fn parse(body: &'a [u8]) -> Result<WalMessage<'a>, DecodeError> {
        let mut cursor = Cursor::new(body);
        match cursor.u8("CopyData type")? {
            b'w' => Ok(WalMessage::XLogData(XLogData {
                wal_start: cursor.lsn("XLogData start")?,
                wal_end: cursor.lsn("XLogData end")?,
                send_time: cursor.timestamp("XLogData send time")?,
                data: cursor.take_rest(),
            })),
            b'k' => {
                let keepalive = Keepalive {
                    wal_end: cursor.lsn("keepalive end")?,
                    send_time: cursor.timestamp("keepalive send time")?,
                    reply_requested: flag(&mut cursor, "keepalive reply")?,
                };
                cursor.finish("keepalive").map(|()| WalMessage::Keepalive(keepalive))
            }
            other => Err(DecodeError { fault: Fault::Unknown(other), field: "CopyData type", offset: 0 }),
        }
    }
}

impl ReceiverMessage {
    /// Parses the body of a CopyData frame from a receiver.
    pub fn parse(body: &[u8]) -> Result<ReceiverMessage, DecodeError> {
        let mut cursor = Cursor::new(body);
        let message = match cursor.u8("CopyData type")? {
            b'r' => ReceiverMessage::StatusUpdate(StatusUpdate {
                write: cursor.lsn("status write position")?,
                flush: cursor.lsn("status flush position")?,
                apply: cursor.lsn("status apply position")?,
                send_time: cursor.timestamp("status send time")?,
                reply_requested: flag(&mut cursor, "status reply")?,
            }),
            b'h' => ReceiverMessage::HotStandbyFeedback(HotStandbyFeedback {
                send_time: cursor.timestamp("feedback send time")?,
                xmin: cursor.u32("feedback xmin")?,
                xmin_epoch: cursor.u32("feedback xmin epoch")?,
                catalog_xmin: cursor.u32("feedback catalog xmin")?,
                catalog_xmin_epoch: cursor.u32("feedback catalog xmin epoch")?,
            }),
            other => return Err(DecodeError { fault: Fault::Unknown(other), field: "CopyData type", offset: 0 }),
        };
        cursor.finish("receiver message").map(|()| message)
    }
}

impl StatusUpdate {
    /// Everything up to `position` is written, flushed and applied.
    pub fn all(position: Lsn, send_time: PgTimestamp) -> StatusUpdate {
        StatusUpdate { write: position, flush: position, apply: position, send_time, reply_requested: false }
    }

    /// Appends the body of a CopyData frame.
    pub fn encode(&self, body: &mut BytesMut) {
        body.put_u8(b'r');
        for lsn in [self.write, self.flush, self.apply] {
            body.put_u64(lsn.0);
        }
        body.put_i64(self.send_time.0);
        body.put_u8(self.reply_requested.into());
    }
}

/// The server takes any byte but 0 as true (`pq_getmsgbyte` in `walsender.c`).
fn flag(cursor: &mut Cursor<'_>, field: &'static str) -> Result<bool, DecodeError> {
    cursor.u8(field).map(|byte| byte != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first keepalive of an idle PostgreSQL 18.4.
    const KEEPALIVE: &[u8] = &[b'k', 0, 0, 0, 0, 1, 0x7a, 0x0c, 0x28, 0, 3, 3, 0xc2, 0x5b, 0xb8, 0xfc, 0x82, 0];

    #[test]
    fn a_keepalive_gives_position_time_and_request() {
        let Ok(WalMessage::Keepalive(keepalive)) = WalMessage::parse(KEEPALIVE) else { panic!() };
        assert_eq!(keepalive.wal_end, "0/17A0C28".parse().unwrap());
        assert!(!keepalive.reply_requested);
        assert_eq!(keepalive.send_time.to_string(), "2026-11-21T06:37:07.520642Z");
    }

    #[test]
    fn a_status_update_reads_as_it_was_written() {
        let update = StatusUpdate {
            write: Lsn(3),
            flush: Lsn(2),
            apply: Lsn(1),
            send_time: PgTimestamp(-5),
            reply_requested: true,
        };
        let mut body = BytesMut::new();
        update.encode(&mut body);
        assert_eq!(ReceiverMessage::parse(&body), Ok(ReceiverMessage::StatusUpdate(update)));
        for len in 0..body.len() {
            assert!(ReceiverMessage::parse(&body[..len]).is_err(), "{len}");
        }
        body.put_u8(0);
        assert_eq!(ReceiverMessage::parse(&body).unwrap_err().fault, Fault::TrailingBytes);
    }

    #[test]
    fn xlog_data_needs_its_header_and_no_more() {
        let body = [&[b'w'][..], &7u64.to_be_bytes(), &8u64.to_be_bytes(), &9i64.to_be_bytes(), b"B..."].concat();
        for len in 0..XLOG_DATA_HEADER {
            assert!(WalMessage::parse(&body[..len]).is_err(), "{len}");
        }
        let Ok(WalMessage::XLogData(data)) = WalMessage::parse(&body[..XLOG_DATA_HEADER]) else { panic!() };
        assert_eq!((data.wal_start, data.wal_end, data.send_time), (Lsn(7), Lsn(8), PgTimestamp(9)));
        assert!(data.data.is_empty());
    }

    #[test]
    fn an_unknown_type_is_named() {
        assert_eq!(WalMessage::parse(b"z").unwrap_err().fault, Fault::Unknown(b'z'));
        assert_eq!(ReceiverMessage::parse(b"z").unwrap_err().fault, Fault::Unknown(b'z'));
    }
}
