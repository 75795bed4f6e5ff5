//! The byte stream to a server: socket, TCP settings, TLS.
//!
//! Ordinary and replication connections share this one way in, so no connection can be opened with
//! weaker TLS or without the limits that make a dead peer noticed.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tidelock_core::{Code, Error, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::config::{Address, Host};

/// How long a connection may take to be made, login included.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// After this long without an acknowledgement by the peer's kernel a connection is dead.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);

/// What a connection runs over.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Duplex for T {}

/// A socket, in TLS where that is asked for.
pub(crate) type Stream = Box<dyn Duplex>;

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
            Ok(Box::new(UnixStream::connect(path).await.map_err(lost)?))
        }
        Host::Tcp(host) => {
            let socket = TcpStream::connect((host.as_str(), address.port)).await.map_err(lost)?;
            socket.set_nodelay(true).map_err(lost)?;
            limit(&socket).map_err(lost)?;
            match tls {
                None => Ok(Box::new(socket)),
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
    let stream =
        tokio_rustls::TlsConnector::from(config.clone()).connect(name, socket).await.map_err(
            |e| Error::transient(Code::Tls, format!("TLS with {place} failed")).with_source(e),
        )?;
    Ok(Box::new(stream))
}
