//! The admin server's socket.
//!
//! Guarantees: however many connect, and whatever they don't send, the daemon keeps its file descriptors: [`CLIENTS`] connections at
//! once (more wait in the system's backlog), and one on which nothing moves for [`IDLE`] is closed. When the server ends, so do its
//! connections, whatever goes on there. May depend on nothing of ours.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Connections at once.
const CLIENTS: usize = 256;
/// A connection on which nothing moves for so long is closed: longer than `rowbust reload` waits for its answer, and than `/events` is
/// silent.
const IDLE: Duration = Duration::from_secs(150);
/// A client that has acknowledged nothing for so long loses its connection (`tcp(7)`, TCP_USER_TIMEOUT).
const STUCK: Duration = Duration::from_secs(30);

/// Accepts clients.
#[derive(Debug)]
pub(super) struct Bounded {
    listener: TcpListener,
    free: Arc<Semaphore>,
    idle: Duration,
    ended: CancellationToken,
}

impl Bounded {
    /// With `ended` its connections end.
    pub(super) fn new(listener: TcpListener, ended: CancellationToken) -> Self {
        Self::with(listener, CLIENTS, IDLE, ended)
    }

    fn with(listener: TcpListener, clients: usize, idle: Duration, ended: CancellationToken) -> Self {
        Self { listener, free: Arc::new(Semaphore::new(clients)), idle, ended }
    }
}

impl Listener for Bounded {
    type Io = Client;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Client, SocketAddr) {
        // Nobody closes it.
        let place = Arc::clone(&self.free).acquire_owned().await.ok();
        // Goes on after errors: without descriptors it waits a second.
        let (stream, address) = Listener::accept(&mut self.listener).await;
        // Where the system has no such option, a stuck client keeps its connection until it is idle.
        let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(STUCK));
        let wake = Box::pin(tokio::time::sleep(self.idle));
        let ended = Box::pin(self.ended.clone().cancelled_owned());
        (Client { stream, wake, idle: self.idle, moved: Instant::now(), ended, _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection. The server always reads from it, so that it sees its end: there the time is looked at.
#[derive(Debug)]
pub(super) struct Client {
    stream: TcpStream,
    wake: Pin<Box<Sleep>>,
    idle: Duration,
    moved: Instant,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Client {
    /// Notes that something moved.
    fn moved<T>(&mut self, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.moved = Instant::now();
        }
        done
    }

    /// Why it is closed, if it is to be.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready(io::Error::new(ErrorKind::ConnectionAborted, "the server ends"));
        }
        while self.wake.as_mut().poll(cx).is_ready() {
            let until = self.moved + self.idle;
            if until <= Instant::now() {
                return Poll::Ready(io::Error::new(ErrorKind::TimedOut, "idle for too long"));
            }
            self.wake.as_mut().reset(until);
        }
        Poll::Pending
    }
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, into);
        if self.moved(read).is_ready() {
            return Poll::Ready(Ok(()));
        }
        self.poll_over(cx).map(Err)
    }
}

impl AsyncWrite for Client {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, from);
        self.moved(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, from);
        self.moved(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::{Router, routing::get};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn serve(clients: usize, idle: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().route("/", get(|| async { "here" }));
        let bounded = Bounded::with(listener, clients, idle, CancellationToken::new());
        tokio::spawn(async move { axum::serve(bounded, app).await });
        address
    }

    async fn ask(client: &mut TcpStream) -> String {
        client.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut answer = vec![0; 1000];
        let n = client.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..n]).into_owned()
    }

    #[tokio::test]
    async fn who_says_nothing_makes_place() {
        let address = serve(2, Duration::from_millis(300)).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET / HT").await.unwrap();
        // No place is left until the two are closed.
        let mut third = TcpStream::connect(address).await.unwrap();
        let within = Duration::from_secs(10);
        let answer = tokio::time::timeout(within, ask(&mut third)).await.unwrap();
        assert!(answer.ends_with("here"), "{answer}");
        for closed in [&mut silent, &mut slow] {
            let mut rest = Vec::new();
            let read = tokio::time::timeout(within, closed.read_to_end(&mut rest)).await.unwrap();
            assert!(read.is_err() || !String::from_utf8_lossy(&rest).contains("200"), "{rest:?}");
        }
    }

    #[tokio::test]
    async fn who_asks_now_and_then_stays() {
        let address = serve(1, Duration::from_millis(600)).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(1500) {
            assert!(ask(&mut client).await.ends_with("here"));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
