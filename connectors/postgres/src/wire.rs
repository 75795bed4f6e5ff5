//! A replication connection: login, the few commands of the replication protocol, and the frames of
//! `COPY BOTH`.
//!
//! The client library has no replication mode, so the framing is ours. Until `START_REPLICATION`
//! is answered, messages are read by the protocol crate; from then on by [`Wire::frame`], which
//! splits frames off the receive buffer without copying.
//!
//! **Cancel safety.** Everything received stays in `received` until a whole frame is split off, and
//! everything to be sent stays in `outgoing` until the socket took it. [`Wire::fill`] and
//! [`Wire::flush`] can be dropped at any await without losing or doubling a byte.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use futures_util::FutureExt;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use rustls::ClientConfig;
use tidelock_core::{Code, Error, Result, Secret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::config::Address;
use crate::error::{Fault, Stage};
use crate::lsn::Lsn;
use crate::net::{self, Stream};
use crate::session::PINNED;

/// No message of a server is longer than this; a longer one is damage.
const MESSAGE_BYTES_MAX: usize = 0x4000_0000;
/// Size of the receive buffer; the server sends less than that at a time.
const READ_BYTES: usize = 64 * 1024;
/// With less room than this a new receive buffer is begun: rows that are still in use hold the old one.
const ROOM_BYTES_MIN: usize = 8 * 1024;
/// Seconds from 1970 to 2000, where the protocol's clock starts.
pub(crate) const EPOCH_2000_MICROS: i64 = 946_684_800_000_000;

/// A frame of the replication stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// One message of the output plugin.
    Data(Bytes),
    /// The server is alive and has sent everything before `end`.
    Keepalive { end: Lsn, reply: bool },
}

/// A row of a replication command's answer.
pub(crate) type TextRow = Vec<Option<String>>;

/// A connection in replication mode.
pub(crate) struct Wire {
    stream: Stream,
    received: BytesMut,
    outgoing: BytesMut,
    unflushed: bool,
    endpoint: String,
}

impl Wire {
    /// Connects and logs in.
    pub(crate) async fn open(address: &Address, tls: Option<&Arc<ClientConfig>>) -> Result<Wire> {
        let stream = net::open(address, tls).await?;
        let mut wire = Wire {
            stream,
            received: BytesMut::with_capacity(READ_BYTES),
            outgoing: BytesMut::new(),
            unflushed: false,
            endpoint: address.endpoint(),
        };
        timeout(net::CONNECT_TIMEOUT, wire.log_in(address)).await.map_err(|_| {
            Error::transient(
                Code::Unreachable,
                format!("logging in at {}: no answer within 10 s", wire.endpoint),
            )
        })??;
        Ok(wire)
    }

    async fn log_in(&mut self, address: &Address) -> Result<()> {
        let parameters = [
            ("user", address.user.as_str()),
            ("database", address.database.as_str()),
            ("replication", "database"),
            ("application_name", "tidelock"),
            ("client_encoding", "UTF8"),
            ("options", PINNED),
        ];
        frontend::startup_message(parameters, &mut self.outgoing).map_err(|e| self.damaged(e))?;
        self.flush().await?;
        self.authenticate(address).await?;
        loop {
            match self.message("logging in").await? {
                Message::ReadyForQuery(_) => return Ok(()),
                Message::ParameterStatus(_)
                | Message::BackendKeyData(_)
                | Message::NoticeResponse(_) => {}
                _ => return Err(self.unexpected("while logging in")),
            }
        }
    }

    async fn authenticate(&mut self, address: &Address) -> Result<()> {
        loop {
            match self.message("logging in").await? {
                Message::AuthenticationOk => return Ok(()),
                Message::AuthenticationSasl(body) => {
                    let mechanisms: Vec<String> = body
                        .mechanisms()
                        .map(|m| Ok(m.to_owned()))
                        .collect()
                        .map_err(|e| self.damaged(e))?;
                    self.scram(self.password(address)?, &mechanisms).await?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let password = self.password_for_weak_login(address)?;
                    let hash = md5_hash(
                        address.user.as_bytes(),
                        password.expose().as_bytes(),
                        body.salt(),
                    );
                    self.send_password(hash.as_bytes()).await?;
                }
                Message::AuthenticationCleartextPassword => {
                    let password = self.password_for_weak_login(address)?;
                    self.send_password(password.expose().as_bytes()).await?;
                }
                Message::NoticeResponse(_) => {}
                _ => return Err(self.unexpected("an unknown way to log in")),
            }
        }
    }

    fn password<'a>(&self, address: &'a Address) -> Result<&'a Secret> {
        address.password.as_ref().ok_or_else(|| {
            Error::transient(
                Code::Authentication,
                format!("{} asks for a password and none is configured", self.endpoint),
            )
            .with_hint(format!("set password = {{ env = \"…\" }} for system {}", address.system))
        })
    }

    /// The password, where nobody else can hear it: these ways to log in give it away.
    fn password_for_weak_login<'a>(&self, address: &'a Address) -> Result<&'a Secret> {
        if address.is_private() {
            return self.password(address);
        }
        Err(Error::transient(
            Code::Authentication,
            format!("{} asks for the password in a readable form without TLS", self.endpoint),
        )
        .with_hint("use scram-sha-256 in pg_hba.conf, or TLS"))
    }

    async fn send_password(&mut self, password: &[u8]) -> Result<()> {
        frontend::password_message(password, &mut self.outgoing).map_err(|e| self.damaged(e))?;
        self.flush().await
    }

    /// Logs in bound to the server's certificate where there is TLS. A server that does not offer
    /// this is told that we could: one that did offer it knows then that somebody in the middle took
    /// the offer away, and refuses.
    async fn scram(&mut self, password: &Secret, offered: &[String]) -> Result<()> {
        let offers = |mechanism: &str| offered.iter().any(|m| m == mechanism);
        let (mechanism, binding) = match self.stream.end_point() {
            Some(end_point) if offers(SCRAM_SHA_256_PLUS) => {
                (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(end_point.to_vec()))
            }
            Some(_) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
            None => (SCRAM_SHA_256, ChannelBinding::unsupported()),
        };
        if !offers(mechanism) {
            return Err(self.unexpected("an unknown way to log in"));
        }
        let mut scram = ScramSha256::new(password.expose().as_bytes(), binding);
        frontend::sasl_initial_response(mechanism, scram.message(), &mut self.outgoing)
            .map_err(|e| self.damaged(e))?;
        self.flush().await?;
        let Message::AuthenticationSaslContinue(body) = self.message("logging in").await? else {
            return Err(self.unexpected("in the middle of a login"));
        };
        scram.update(body.data()).map_err(|_| self.refused())?;
        frontend::sasl_response(scram.message(), &mut self.outgoing)
            .map_err(|e| self.damaged(e))?;
        self.flush().await?;
        let Message::AuthenticationSaslFinal(body) = self.message("logging in").await? else {
            return Err(self.unexpected("in the middle of a login"));
        };
        // The server proves here that it knows the password too.
        scram.finish(body.data()).map_err(|_| self.refused())
    }

    fn refused(&self) -> Error {
        Error::transient(
            Code::Authentication,
            format!("{} could not prove that it knows the password", self.endpoint),
        )
    }

    fn damaged(&self, cause: std::io::Error) -> Error {
        Error::transient(Code::Unreachable, format!("damaged message from {}", self.endpoint))
            .with_source(cause)
    }

    fn unexpected(&self, place: &str) -> Error {
        Error::transient(
            Code::Unreachable,
            format!("{} sent a message that does not belong here: {place}", self.endpoint),
        )
    }

    /// Runs a replication command and gives its rows.
    pub(crate) async fn command(&mut self, doing: &str, command: &str) -> Result<Vec<TextRow>> {
        frontend::query(command, &mut self.outgoing).map_err(|e| self.damaged(e))?;
        self.flush().await?;
        let mut rows = Vec::new();
        loop {
            match self.message(doing).await? {
                Message::DataRow(body) => rows.push(self.text_row(&body)?),
                Message::ReadyForQuery(_) => return Ok(rows),
                Message::RowDescription(_)
                | Message::CommandComplete(_)
                | Message::ParameterStatus(_)
                | Message::NoticeResponse(_) => {}
                _ => return Err(self.unexpected(doing)),
            }
        }
    }

    fn text_row(&self, body: &postgres_protocol::message::backend::DataRowBody) -> Result<TextRow> {
        let buffer = body.buffer();
        body.ranges()
            .map(|range| {
                Ok(range
                    .and_then(|r| buffer.get(r))
                    .map(|cell| String::from_utf8_lossy(cell).into_owned()))
            })
            .collect()
            .map_err(|e| self.damaged(e))
    }

    /// Starts the stream; from now on only [`Wire::frame`] and what sends status may be used.
    pub(crate) async fn start(&mut self, command: &str) -> Result<()> {
        frontend::query(command, &mut self.outgoing).map_err(|e| self.damaged(e))?;
        self.flush().await?;
        loop {
            // `CopyBothResponse` is unknown to the protocol crate: look before it does.
            if self.received.first() == Some(&b'W') {
                if self.split()?.is_some() {
                    return Ok(());
                }
            } else if !self.received.is_empty() {
                match self.message("starting replication").await? {
                    Message::NoticeResponse(_) | Message::ParameterStatus(_) => continue,
                    _ => return Err(self.unexpected("starting replication")),
                }
            }
            self.fill().await?;
        }
    }

    /// The next message of the phase before streaming; an error message is our error.
    async fn message(&mut self, doing: &str) -> Result<Message> {
        loop {
            if let Some(length) = self.received.get(1..5) {
                let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]);
                if length as usize > MESSAGE_BYTES_MAX {
                    return Err(self.unexpected("a message of absurd length"));
                }
            }
            match Message::parse(&mut self.received).map_err(|e| self.damaged(e))? {
                Some(Message::ErrorResponse(body)) => {
                    let fault = Fault::from_wire(&body);
                    let doing = format!("{doing} at {}", self.endpoint);
                    return Err(fault.into_error(&doing, Stage::Source));
                }
                Some(message) => return Ok(message),
                None => self.fill().await?,
            }
        }
    }

    /// Splits a whole message off the buffer: its tag and its body.
    fn split(&mut self) -> Result<Option<(u8, Bytes)>> {
        let Some((&tag, rest)) = self.received.split_first() else { return Ok(None) };
        let Some(&[a, b, c, d]) = rest.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
            return Err(self.unexpected("a frame of absurd length"));
        }
        if self.received.len() < length + 1 {
            return Ok(None);
        }
        let mut message = self.received.split_to(length + 1).freeze();
        message.advance(5);
        Ok(Some((tag, message)))
    }

    /// The next frame that is already here, if any.
    pub(crate) fn frame(&mut self) -> Result<Option<Frame>> {
        while let Some((tag, body)) = self.split()? {
            match tag {
                b'd' => {
                    return match decode_frame(body) {
                        Some(frame) => Ok(Some(frame)),
                        None => Err(Error::continuity(
                            Code::DamagedEvent,
                            format!(
                                "a frame of the replication stream of {} cannot be read",
                                self.endpoint
                            ),
                        )),
                    };
                }
                b'E' => return Err(self.stream_error(&body)),
                b'N' | b'S' => {}
                b'c' | b'C' | b'Z' => {
                    return Err(Error::transient(
                        Code::Unreachable,
                        format!("{} ended the replication stream", self.endpoint),
                    ));
                }
                _ => {
                    return Err(Error::continuity(
                        Code::UnsupportedEvent,
                        format!("{} sent an unknown kind of message in the stream", self.endpoint),
                    ));
                }
            }
        }
        Ok(None)
    }

    fn stream_error(&self, body: &Bytes) -> Error {
        let mut whole = BytesMut::with_capacity(body.len() + 5);
        whole.put_u8(b'E');
        whole.put_u32(u32::try_from(body.len() + 4).unwrap_or(u32::MAX));
        whole.put_slice(body);
        match Message::parse(&mut whole) {
            Ok(Some(Message::ErrorResponse(body))) => Fault::from_wire(&body)
                .into_error(&format!("reading the log of {}", self.endpoint), Stage::Source),
            _ => self.unexpected("an error that cannot be read"),
        }
    }

    /// Waits for more bytes.
    pub(crate) async fn fill(&mut self) -> Result<()> {
        if self.received.capacity() - self.received.len() < ROOM_BYTES_MIN {
            self.received.reserve(READ_BYTES);
        }
        match self.stream.read_buf(&mut self.received).await {
            Ok(0) => Err(Error::transient(
                Code::Unreachable,
                format!("{} closed the connection", self.endpoint),
            )),
            Ok(_) => Ok(()),
            Err(e) => Err(self.broken(e)),
        }
    }

    /// Takes what the socket holds already; `false` if that is nothing.
    pub(crate) fn fill_now(&mut self) -> Result<bool> {
        match self.fill().now_or_never() {
            None => Ok(false),
            Some(result) => result.map(|()| true),
        }
    }

    fn broken(&self, cause: std::io::Error) -> Error {
        net::broken(format!("the connection to {} broke", self.endpoint), cause)
    }

    /// Puts a status message into the outgoing buffer; [`Wire::flush`] sends it.
    pub(crate) fn queue_status(&mut self, written: Lsn, confirmed: Lsn, reply: bool) {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX));
        let out = &mut self.outgoing;
        out.put_u8(b'd');
        out.put_u32(4 + 1 + 3 * 8 + 8 + 1);
        out.put_u8(b'r');
        out.put_u64(written.0);
        out.put_u64(confirmed.0);
        out.put_u64(confirmed.0);
        out.put_i64(now.saturating_sub(EPOCH_2000_MICROS));
        out.put_u8(u8::from(reply));
    }

    /// Sends what is to be sent.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        while self.outgoing.has_remaining() {
            self.unflushed = true;
            match self.stream.write_buf(&mut self.outgoing).await {
                Ok(0) => return Err(self.broken(std::io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(e) => return Err(self.broken(e)),
            }
        }
        if self.unflushed {
            self.stream.flush().await.map_err(|e| self.broken(e))?;
            self.unflushed = false;
        }
        Ok(())
    }

    /// Host, port and database.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

/// Reads the inside of a `CopyData` message.
fn decode_frame(mut body: Bytes) -> Option<Frame> {
    match body.try_get_u8().ok()? {
        b'w' => {
            // Start, end and clock: the plugin's messages carry what we need of them.
            if body.remaining() < 24 {
                return None;
            }
            body.advance(24);
            Some(Frame::Data(body))
        }
        b'k' => {
            let end = Lsn(body.try_get_u64().ok()?);
            body.try_get_i64().ok()?;
            Some(Frame::Keepalive { end, reply: body.try_get_u8().ok()? == 1 })
        }
        _ => None,
    }
}
