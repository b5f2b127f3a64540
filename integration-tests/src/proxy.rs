//! A way to a server that can be cut, and opened again when the test is ready to watch.
//!
//! While it is cut, nothing listens on its port: a client is refused, as by a server that is down.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rowbust_servers::ports::free_port;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::wait::POLL;

/// A TCP forwarder on 127.0.0.1.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    to: u16,
    /// What clients send, and what the server gets in its place.
    replaced: Option<(&'static str, &'static str)>,
    task: Option<JoinHandle<()>>,
}

/// How long a port that was just closed may be taken still.
const FREE_WITHIN: Duration = Duration::from_secs(2);

impl Proxy {
    /// Forwards a free port to the port `to`.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(to: u16) -> Result<Self> {
        let mut proxy = Self { port: free_port()?, to, replaced: None, task: None };
        proxy.open().await?;
        Ok(proxy)
    }

    /// The port to connect to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Forwards to another port once it is opened again.
    pub fn aim(&mut self, to: u16) {
        self.to = to;
    }

    /// Where clients send `this`, the server gets `that`, which is as long: for connections made once it is opened again.
    pub fn replace(&mut self, this: &'static str, that: &'static str) {
        assert_eq!(this.len(), that.len());
        self.replaced = Some((this, that));
    }

    /// Listens again. Open already: nothing to do.
    ///
    /// # Errors
    /// When the port was taken by somebody else meanwhile.
    pub async fn open(&mut self) -> Result<()> {
        if self.task.is_none() {
            let address = SocketAddr::from(([127, 0, 0, 1], self.port));
            let started = Instant::now();
            let listener = loop {
                match listen(address) {
                    // A process that is being started holds copies of this one's sockets until it is another program.
                    Err(error)
                        if error.kind() == io::ErrorKind::AddrInUse && started.elapsed() < FREE_WITHIN =>
                    {
                        tokio::time::sleep(POLL).await;
                    }
                    listener => break listener.with_context(|| format!("cannot listen on {address}"))?,
                }
            };
            self.task = Some(tokio::spawn(forward(listener, self.to, self.replaced)));
        }
        Ok(())
    }

    /// Closes the port and every connection; returns when they are closed.
    pub async fn cut(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            _ = task.await;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    // Closed connections of before the cut linger in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(128)
}

async fn forward(listener: TcpListener, to: u16, replaced: Option<(&'static str, &'static str)>) {
    // Ends with this task.
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                while connections.try_join_next().is_some() {}
                connections.spawn(carry(client, to, replaced));
            }
            // Out of descriptors, say: nothing to wait for, but not asked again without a pause.
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

async fn carry(mut client: TcpStream, to: u16, replaced: Option<(&str, &str)>) {
    if let Ok(mut server) = TcpStream::connect(("127.0.0.1", to)).await {
        _ = client.set_nodelay(true);
        _ = server.set_nodelay(true);
        match replaced {
            None => _ = tokio::io::copy_bidirectional(&mut client, &mut server).await,
            Some((this, that)) => {
                let (mut from_client, mut to_client) = client.split();
                let (mut from_server, mut to_server) = server.split();
                tokio::select! {
                    _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
                    _ = copy_replaced(&mut from_client, &mut to_server, this.as_bytes(), that.as_bytes()) => {}
                }
            }
        }
    }
}

/// What is cut in two by the network isn't replaced: statements are short.
async fn copy_replaced(
    from: &mut ReadHalf<'_>,
    to: &mut WriteHalf<'_>,
    this: &[u8],
    that: &[u8],
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = from.read(&mut buffer).await?;
        if n == 0 {
            return Ok(());
        }
        while let Some(at) = buffer[..n].windows(this.len()).position(|bytes| bytes == this) {
            buffer[at..at + that.len()].copy_from_slice(that);
        }
        to.write_all(&buffer[..n]).await?;
    }
}
