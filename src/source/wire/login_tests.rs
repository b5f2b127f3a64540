#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn auth(plugin: AuthPlugin<'static>, secure: bool) -> Auth<'static> {
    Auth { password: Some("p4ss"), secure, nonce: vec![7; 20], plugin, switched: false }
}

fn switch(plugin: &str) -> Vec<u8> {
    [&[EOF], plugin.as_bytes(), &[0], &[9; 20], &[0]].concat()
}

fn plugin_error(answer: Result<Answer, WireError>) -> String {
    match answer {
        Err(WireError::Plugin(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_plugin_that_is_not_known_is_named() {
    for name in ["sha256_password", "authentication_ldap_simple", "mysql_old_password"] {
        let said = plugin_error(auth(AuthPlugin::CachingSha2Password, true).answer(&switch(name)));
        assert!(said.contains(name) && said.contains("ALTER USER"), "{said}");
    }
    assert!(
        plugin_error(auth(AuthPlugin::MysqlNativePassword, true).answer(&[EOF]))
            .contains("mysql_old_password")
    );
    let said =
        plugin_error(auth(AuthPlugin::CachingSha2Password, true).answer(&switch("mysql_clear_password")));
    assert!(said.contains("in the clear"), "{said}");
}

#[test]
fn the_password_is_in_the_clear_over_tls_only() {
    let full = [MORE, 4];
    let over_tls = auth(AuthPlugin::CachingSha2Password, true).answer(&full).unwrap();
    assert_eq!(over_tls, Answer::Send(b"p4ss\0".to_vec()));
    assert_eq!(auth(AuthPlugin::CachingSha2Password, false).answer(&full).unwrap(), Answer::Send(vec![2]));
    // Not a key.
    let key = [&[MORE], &b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"[..]].concat();
    for key in [&key[..], &[MORE], &[MORE, 0xff]] {
        assert!(auth(AuthPlugin::CachingSha2Password, false).answer(key).is_err());
    }
}

#[test]
fn one_switch_and_no_more() {
    let mut auth = auth(AuthPlugin::CachingSha2Password, false);
    let Answer::Send(proof) = auth.answer(&switch("mysql_native_password")).unwrap() else { panic!() };
    assert_eq!((proof.len(), &*auth.nonce), (20, &[9; 20][..]));
    assert!(auth.answer(&switch("mysql_native_password")).is_err());
    assert_eq!(auth.answer(&[OK, 0, 0]).unwrap(), Answer::Done);
}

#[test]
fn an_empty_password_is_an_empty_proof() {
    let mut auth = auth(AuthPlugin::CachingSha2Password, false);
    auth.password = None;
    assert_eq!(auth.proof().unwrap(), b"");
    auth.password = Some("");
    assert_eq!(auth.proof().unwrap(), b"");
}

proptest! {
    /// No greeting and no answer makes it panic.
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..120), name in 0_usize..4, secure: bool) {
        let greeting = [&[10], &bytes[..]].concat();
        let _ = greet(&greeting);
        let plugin = [
            AuthPlugin::CachingSha2Password,
            AuthPlugin::MysqlNativePassword,
            AuthPlugin::Ed25519,
            AuthPlugin::MariadbParsec { iterations: 0, ext_salt: [0; 18] },
        ];
        let mut auth = auth(plugin[name].clone(), secure);
        let _ = auth.answer(&bytes);
        for first in [MORE, EOF] {
            let _ = auth.answer(&[&[first], &bytes[..]].concat());
        }
    }
}
