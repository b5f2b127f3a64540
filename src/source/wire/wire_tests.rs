#![allow(clippy::unwrap_used)]

use tokio::{io::AsyncReadExt, net::TcpListener};

use super::*;

/// A connection, and the other end of it.
async fn pair() -> (Wire, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (Wire::raw(ours), listener.accept().await.unwrap().0)
}

/// What a query makes of an answer.
async fn ask(answer: &[&[u8]]) -> Result<Option<String>, WireError> {
    let (mut wire, mut server) = pair().await;
    let (mut bytes, mut sequence) = (Vec::new(), 1);
    for payload in answer {
        sequence = packet::frame(payload, sequence, &mut bytes);
    }
    let server = tokio::spawn(async move {
        let mut command = [0; 13];
        server.read_exact(&mut command).await.unwrap();
        assert_eq!(&command, b"\x09\0\0\0\x03SELECT 1");
        // Fails where the client has seen enough.
        _ = server.write_all(&bytes).await;
    });
    let answer = wire.query("SELECT 1").await;
    drop(wire);
    server.await.unwrap();
    answer
}

#[tokio::test]
async fn answers() {
    let eof = &b"\xfe\0\0\x02\0"[..];
    assert_eq!(ask(&[b"\0\0\0"]).await.unwrap(), None);
    assert_eq!(ask(&[b"\x01", b"def", eof, b"\x02ab", b"\x01c", eof]).await.unwrap().as_deref(), Some("ab"));
    // NULL, no row, and a row that is shorter than it says.
    for rows in [&[&b"\xfb"[..], eof][..], &[eof], &[b"\x09ab", eof]] {
        assert_eq!(ask(&[&[&b"\x01"[..], b"def", eof][..], rows].concat()).await.unwrap(), None);
    }
    let error = ask(&[b"\x01", b"def", eof, b"\xff\x25\x05#70100killed"]).await.unwrap_err();
    assert!(matches!(&error, WireError::Server { code: 1317, message } if message == "killed"), "{error}");
}

#[tokio::test]
async fn an_answer_has_a_bound() {
    let error = ask(&[&vec![1; 1 << 20]]).await.unwrap_err();
    assert!(matches!(&error, WireError::Malformed(_)), "{error}");
}

#[tokio::test]
async fn something_else_than_a_database() {
    let error = |greeting: &'static [u8]| async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut peer, _) = listener.accept().await.unwrap();
            peer.write_all(greeting).await.unwrap();
        });
        let target = Target { host: "127.0.0.1", port, user: "u", password: None, tls: None };
        let error = Wire::connect(target).await.unwrap_err();
        server.await.unwrap();
        error.to_string()
    };
    assert_eq!(error(b"\x05\0\0\0HTTP/").await, "no greeting of a MySQL or MariaDB server");
    assert!(error(b"HTTP/1.1 400 Bad Request\r\n").await.starts_with("packet number "));
    assert_eq!(error(b"\x0b\0\0\0\xff\x10\x04Too many").await, "Too many (1040)");
    assert_eq!(error(b"").await, "the server closed the connection");
}
