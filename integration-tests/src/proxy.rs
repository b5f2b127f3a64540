//! A way to a server that can be cut, and opened again when the test is ready to watch.
//!
//! While it is cut, nothing listens on its port: a client is refused, as by a server that is down.

use std::io;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use rowbust_servers::ports::free_port;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::wait::POLL;

/// A TCP forwarder on 127.0.0.1.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    to: u16,
    task: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Forwards a free port to the port `to`.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(to: u16) -> Result<Self> {
        let mut proxy = Self { port: free_port()?, to, task: None };
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

    /// Listens again. Open already: nothing to do.
    ///
    /// # Errors
    /// When the port was taken by somebody else meanwhile.
    pub async fn open(&mut self) -> Result<()> {
        if self.task.is_none() {
            let address = SocketAddr::from(([127, 0, 0, 1], self.port));
            let listener = listen(address).with_context(|| format!("cannot listen on {address}"))?;
            self.task = Some(tokio::spawn(forward(listener, self.to)));
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

async fn forward(listener: TcpListener, to: u16) {
    // Ends with this task.
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                while connections.try_join_next().is_some() {}
                connections.spawn(carry(client, to));
            }
            // Out of descriptors, say: nothing to wait for, but not asked again without a pause.
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

async fn carry(mut client: TcpStream, to: u16) {
    if let Ok(mut server) = TcpStream::connect(("127.0.0.1", to)).await {
        _ = client.set_nodelay(true);
        _ = server.set_nodelay(true);
        _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    }
}
