//! The byte stream to a server: socket, TCP settings, TLS.
//!
//! Ordinary and replication connections share this one way in, so no connection can be opened with
//! weaker TLS, without the limits that make a dead peer noticed, or without the proof that a login
//! reached the very server whose certificate was seen ([`Stream::end_point`]).

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig, Error as TlsError};
use tidelock_core::{Code, Error, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

use crate::config::{Address, Host};
use crate::tls;

/// How long a connection may take to be made, login included.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// After this long without an acknowledgement by the peer's kernel a connection is dead.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);

/// What a connection runs over.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Duplex for T {}

/// A socket, in TLS where that is asked for.
pub(crate) struct Stream {
    inner: Box<dyn Duplex>,
    encrypted: bool,
    end_point: Option<Vec<u8>>,
}

impl Stream {
    fn plain(socket: impl Duplex + 'static) -> Stream {
        Stream { inner: Box::new(socket), encrypted: false, end_point: None }
    }

    /// Whether it runs in TLS.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// What SCRAM binds a login to (`tls-server-end-point`): a digest of the certificate that the
    /// other end showed. Somebody in the middle cannot show the server's own, so a login through
    /// them fails even where the mode does not check certificates.
    pub(crate) fn end_point(&self) -> Option<&[u8]> {
        self.end_point.as_deref()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl TlsStream for Stream {
    fn channel_binding(&self) -> ChannelBinding {
        match &self.end_point {
            Some(end_point) => ChannelBinding::tls_server_end_point(end_point.clone()),
            None => ChannelBinding::none(),
        }
    }
}

/// Tells the client library that the stream it is given is in TLS already.
pub(crate) struct Encrypted;

impl TlsConnect<Stream> for Encrypted {
    type Stream = Stream;
    type Error = Infallible;
    type Future = Ready<std::result::Result<Stream, Infallible>>;

    fn connect(self, stream: Stream) -> Self::Future {
        ready(Ok(stream))
    }
}

/// The error of a connection that broke. With TLS 1.3 a server refuses our certificate only after the
/// handshake, so not all that comes then is a broken line.
pub(crate) fn broken(what: String, cause: std::io::Error) -> Error {
    if refuses_certificate(&cause) {
        Error::transient(Code::Tls, what).with_hint(CERTIFICATE_HINT).with_source(cause)
    } else {
        Error::transient(Code::Unreachable, what).with_source(cause)
    }
}

/// What to do about a server that does not take our certificate.
pub(crate) const CERTIFICATE_HINT: &str = "the server does not take our certificate: see that cert_file and key_file are there, valid and \
     of an authority in the server's ssl_ca_file";

/// Whether an error is, at its root, the other end's word that it does not take our certificate.
pub(crate) fn refuses_certificate(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let inside = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let found = inside.and_then(|e| e.downcast_ref::<TlsError>());
        if let Some(TlsError::AlertReceived(alert)) = found {
            return matches!(
                alert,
                AlertDescription::BadCertificate
                    | AlertDescription::UnsupportedCertificate
                    | AlertDescription::CertificateRevoked
                    | AlertDescription::CertificateExpired
                    | AlertDescription::CertificateUnknown
                    | AlertDescription::CertificateRequired
                    | AlertDescription::UnknownCA
                    | AlertDescription::AccessDenied
            );
        }
        next = error.source();
    }
    false
}

/// Opens the stream.
pub(crate) async fn open(address: &Address, tls: Option<&Arc<ClientConfig>>) -> Result<Stream> {
    timeout(CONNECT_TIMEOUT, dial(address, tls)).await.map_err(|_| {
        Error::transient(
            Code::Unreachable,
            format!("{} does not answer within 10 s", address.endpoint()),
        )
    })?
}

async fn dial(address: &Address, tls: Option<&Arc<ClientConfig>>) -> Result<Stream> {
    let lost = |e: std::io::Error| {
        Error::transient(Code::Unreachable, format!("cannot reach {}", address.endpoint()))
            .with_source(e)
    };
    match &address.host {
        Host::Unix(folder) => {
            let path = format!("{folder}/.s.PGSQL.{}", address.port);
            Ok(Stream::plain(UnixStream::connect(path).await.map_err(lost)?))
        }
        Host::Tcp(host) => {
            let socket = TcpStream::connect((host.as_str(), address.port)).await.map_err(lost)?;
            socket.set_nodelay(true).map_err(lost)?;
            limit(&socket).map_err(lost)?;
            match tls {
                None => Ok(Stream::plain(socket)),
                Some(config) => encrypt(socket, host, config, address).await,
            }
        }
    }
}

/// Makes the kernel notice a peer that went away without a word.
fn limit(socket: &TcpStream) -> std::io::Result<()> {
    let socket = socket2::SockRef::from(socket);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(10))
        .with_interval(Duration::from_secs(5));
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
    Ok(())
}

async fn encrypt(
    mut socket: TcpStream,
    host: &str,
    config: &Arc<ClientConfig>,
    address: &Address,
) -> Result<Stream> {
    let place = address.endpoint();
    let lost = |e: std::io::Error| {
        Error::transient(Code::Unreachable, format!("cannot reach {place}")).with_source(e)
    };
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    socket.write_all(&request).await.map_err(lost)?;
    // One byte and no more: anything behind it would be a message smuggled in before TLS.
    let answer = socket.read_u8().await.map_err(lost)?;
    if answer != b'S' {
        return Err(Error::transient(Code::Tls, format!("{place} does not offer TLS")).with_hint(
            "turn on ssl at the server, or, where the way to it is trusted, \
             set tls = { mode = \"disable\" }",
        ));
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|e| {
        Error::setup(Code::Tls, format!("{host} is no name a certificate can have")).with_source(e)
    })?;
    let connector = tokio_rustls::TlsConnector::from(config.clone());
    let stream = connector.connect(name, socket).await.map_err(|e| {
        let refused = refuses_certificate(&e);
        let error = Error::transient(Code::Tls, format!("TLS with {place} failed")).with_source(e);
        if refused { error.with_hint(CERTIFICATE_HINT) } else { error }
    })?;
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let end_point = shown.and_then(tls::end_point);
    Ok(Stream { inner: Box::new(stream), encrypted: true, end_point })
}
