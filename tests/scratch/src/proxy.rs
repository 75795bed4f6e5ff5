//! A TCP proxy that does what networks do at the worst moment.
//!
//! Each connection is two pumps under one task. Commands reach the tasks over watch channels, so a cut also ends a
//! pump that waits for bytes. Cutting *after* forwarding must not lose what was forwarded: a socket closed with unread
//! bytes sends a reset, and a reset may overtake the `COMMIT` in the server's receive buffer. So the server's side is
//! then closed for writing only and read to its end, while the client's side is dropped at once.

use std::net::Ipv4Addr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{Result, ScratchError};

const CHUNK_BYTES: usize = 64 * 1024;
/// How far back a needle may have begun.
const NEEDLE_BYTES_MAX: usize = 1024;
/// How long a server may take over what was forwarded before its side is dropped too.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);

/// Which way bytes flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server: statements.
    ToServer,
    /// From the server to the client: answers.
    ToClient,
}

/// On which side of the needle the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// The bytes that complete the needle never arrive.
    BeforeForwarding,
    /// They arrive, and nothing comes back.
    AfterForwarding,
}

#[derive(Debug)]
struct Rule {
    direction: Direction,
    needle: Vec<u8>,
    when: When,
    skip: usize,
}

#[derive(Debug)]
struct Shared {
    upstream: (String, u16),
    cuts: AtomicU64,
    rule: Mutex<Option<Rule>>,
    /// Its value changes with each cut of all connections.
    cut: watch::Sender<u64>,
    blackhole: watch::Sender<bool>,
}

enum Command {
    Refuse(bool, oneshot::Sender<std::io::Result<()>>),
}

/// A proxy on a port of 127.0.0.1, the same for its whole life; dropped, it drops all connections.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
}

impl Proxy {
    /// Starts a proxy to a server; it runs on the current runtime.
    pub async fn start(upstream_host: &str, upstream_port: u16) -> Result<Self> {
        let listener = listen(0).await.map_err(ScratchError::machine("listen on 127.0.0.1"))?;
        let port =
            listener.local_addr().map_err(ScratchError::machine("name the proxy's port"))?.port();
        let shared = Arc::new(Shared {
            upstream: (upstream_host.to_owned(), upstream_port),
            cuts: AtomicU64::new(0),
            rule: Mutex::new(None),
            cut: watch::Sender::new(0),
            blackhole: watch::Sender::new(false),
        });
        let (commands, inbox) = mpsc::channel(4);
        tokio::spawn(accept(listener, port, Arc::downgrade(&shared), inbox));
        Ok(Self { port, shared, commands })
    }

    /// Where clients connect.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Drops all connections now; new ones are taken.
    pub fn cut(&self) {
        self.shared.cut.send_modify(|count| *count += 1);
    }

    /// True: connections are refused, and those there are live on. Done when it returns.
    pub async fn refuse(&self, refuse: bool) -> Result<()> {
        let (done, answer) = oneshot::channel();
        let gone = || ScratchError::State("the proxy's runtime has ended".to_owned());
        self.commands.send(Command::Refuse(refuse, done)).await.map_err(|_| gone())?;
        answer
            .await
            .map_err(|_| gone())?
            .map_err(ScratchError::machine(format!("listen on port {}", self.port)))
    }

    /// True: bytes vanish both ways while connections stay open, closing included; connects succeed and hear nothing.
    /// False: connections that lost bytes are dropped, the others go on.
    pub fn blackhole(&self, blackhole: bool) {
        self.shared.blackhole.send_replace(blackhole);
    }

    /// Drops the connection on which `needle` next comes by after `skip` others did (on any connection), once.
    pub fn cut_when(&self, direction: Direction, needle: &[u8], when: When, skip: usize) {
        let rule = Rule { direction, needle: needle.to_vec(), when, skip };
        *self.shared.rule.lock().unwrap_or_else(PoisonError::into_inner) = Some(rule);
    }

    /// True while a `cut_when` waits for its needle.
    pub fn armed(&self) -> bool {
        self.shared.rule.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// How many connections were dropped on purpose.
    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::SeqCst)
    }
}

async fn listen(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await
}

async fn accept(
    listener: TcpListener,
    port: u16,
    shared: Weak<Shared>,
    mut inbox: mpsc::Receiver<Command>,
) {
    let mut listener = Some(listener);
    loop {
        let next = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased; // a command before the connections that it is about
            command = inbox.recv() => match command {
                None => return, // the proxy was dropped
                Some(Command::Refuse(true, done)) => {
                    listener = None;
                    let _ = done.send(Ok(()));
                }
                Some(Command::Refuse(false, done)) => {
                    let opened = if listener.is_none() { listen(port).await.map(Some) } else { Ok(listener.take()) };
                    let _ = done.send(opened.map(|opened| listener = opened));
                }
            },
            accepted = next => {
                let Some(shared) = shared.upgrade() else { return };
                if let Ok((client, _)) = accepted {
                    let (cut, hole) = (shared.cut.subscribe(), shared.blackhole.subscribe());
                    tokio::spawn(connection(client, Arc::downgrade(&shared), cut, hole));
                }
            }
        }
    }
}

/// Why a pump stopped.
enum End {
    /// Its reading side was closed, or its writing side went away.
    Closed,
    /// Ended on purpose, nothing more is to arrive.
    Cut,
    /// Ended on purpose, what was forwarded is to arrive.
    CutAfter,
}

/// One connection from accept to end. It holds no strong reference: the watch channels close with the proxy.
async fn connection(
    client: TcpStream,
    shared: Weak<Shared>,
    mut cut: watch::Receiver<u64>,
    hole: watch::Receiver<bool>,
) {
    tokio::select! {
        biased; // a cut before whatever could still be forwarded
        changed = cut.changed() => if changed.is_ok() { count(&shared) },
        () = serve(client, &shared, hole) => {}
    }
}

fn count(shared: &Weak<Shared>) {
    if let Some(shared) = shared.upgrade() {
        shared.cuts.fetch_add(1, Ordering::SeqCst);
    }
}

async fn serve(client: TcpStream, shared: &Weak<Shared>, mut hole: watch::Receiver<bool>) {
    let Some(upstream) = shared.upgrade().map(|shared| shared.upstream.clone()) else { return };
    // A connect in the dark succeeds, the proxy took it, and hears nothing until there is light.
    if hole.wait_for(|dark| !dark).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect((upstream.0.as_str(), upstream.1)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let lost = AtomicBool::new(false);
    let end = {
        let up = Pump { direction: Direction::ToServer, shared, hole: hole.clone(), lost: &lost };
        let down = Pump { direction: Direction::ToClient, shared, hole, lost: &lost };
        let up = up.run(&mut from_client, &mut to_server);
        let mut down = pin!(down.run(&mut from_server, &mut to_client));
        tokio::select! {
            end = up => match end {
                // The client has said all; the server may still answer.
                End::Closed => down.await,
                end => end,
            },
            end = &mut down => end,
        }
    };
    match end {
        End::Closed => {}
        End::Cut => count(shared),
        End::CutAfter => {
            drop((from_client, to_client));
            count(shared);
            let _ = to_server.shutdown().await;
            let mut rest = vec![0; CHUNK_BYTES];
            let drain =
                async { while from_server.read(&mut rest).await.is_ok_and(|bytes| bytes > 0) {} };
            let _ = tokio::time::timeout(DRAIN_WITHIN, drain).await;
        }
    }
}

/// One direction of one connection.
struct Pump<'a> {
    direction: Direction,
    shared: &'a Weak<Shared>,
    hole: watch::Receiver<bool>,
    /// Bytes of this connection, either way, have vanished.
    lost: &'a AtomicBool,
}

impl Pump<'_> {
    async fn run(mut self, from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf) -> End {
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut before = Vec::new();
        loop {
            let read = tokio::select! {
                changed = self.hole.changed() => match changed {
                    Ok(()) if !*self.hole.borrow() && self.lost.load(Ordering::SeqCst) => return End::Cut,
                    Ok(()) => continue,
                    Err(_) => return End::Closed,
                },
                read = from.read(&mut chunk) => read.unwrap_or(0),
            };
            if *self.hole.borrow() {
                self.lost.store(true, Ordering::SeqCst);
                if read == 0 {
                    let _ = self.hole.wait_for(|dark| !dark).await;
                    return End::Cut;
                }
                continue;
            }
            let bytes = chunk.get(..read).unwrap_or_default();
            let verdict = self.judge(&mut before, bytes);
            if verdict == Some(When::BeforeForwarding) {
                return End::Cut;
            }
            if read == 0 {
                let _ = to.shutdown().await;
                return End::Closed;
            }
            if to.write_all(bytes).await.is_err() {
                return End::Closed;
            }
            if verdict == Some(When::AfterForwarding) {
                return if self.direction == Direction::ToServer {
                    End::CutAfter
                } else {
                    End::Cut
                };
            }
        }
    }

    /// Looks for the needle in what `bytes` completes; `before` is the stream's end so far, a needle may straddle.
    fn judge(&self, before: &mut Vec<u8>, bytes: &[u8]) -> Option<When> {
        let shared = self.shared.upgrade()?;
        let mut armed = shared.rule.lock().unwrap_or_else(PoisonError::into_inner);
        let mut verdict = None;
        if let Some(rule) = armed.as_mut().filter(|rule| rule.direction == self.direction) {
            let overlap = rule.needle.len().saturating_sub(1).min(before.len());
            let seen = [before.get(before.len() - overlap..).unwrap_or_default(), bytes].concat();
            let hits = seen
                .windows(rule.needle.len().max(1))
                .filter(|window| *window == rule.needle)
                .count();
            if hits > rule.skip {
                verdict = Some(rule.when);
                *armed = None;
            } else {
                rule.skip -= hits;
            }
        }
        before.extend_from_slice(bytes);
        before.drain(..before.len().saturating_sub(NEEDLE_BYTES_MAX));
        verdict
    }
}
