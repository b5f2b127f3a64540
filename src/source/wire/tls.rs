//! TLS for both kinds of connections: what the files hold, and how a certificate is checked.
//!
//! Guarantees: the files are read anew for each connection; queries and stream are checked by the same rules; the names of
//! certificates are checked in `verify_identity` only, their chains in `verify_ca` too. May depend on `config`.

use std::{path::Path, sync::Arc};

use mysql_async::{ClientIdentity, SslOpts};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};

use crate::config::{Tls, TlsMode};

/// A file that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct FileError {
    /// The file.
    pub path: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What the files of `source.tls` hold.
pub(in crate::source) struct Material {
    mode: TlsMode,
    roots: Vec<CertificateDer<'static>>,
    identity: Option<Identity>,
}

/// The daemon's own certificate. The PEM text too: the driver parses it itself.
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    chain_pem: Vec<u8>,
    key_pem: Vec<u8>,
}

impl Material {
    /// Reads what the mode needs; `None` where connections aren't encrypted.
    pub(in crate::source) async fn load(tls: &Tls) -> Result<Option<Self>, FileError> {
        let roots = match (tls.mode, &tls.ca_file) {
            (TlsMode::Disabled, _) => return Ok(None),
            (TlsMode::Required, _) => Vec::new(),
            (_, Some(path)) => {
                let roots = certificates(path, &read(path).await?)?;
                for root in &roots {
                    RootCertStore::empty()
                        .add(root.clone())
                        .map_err(|e| bad(path, format!("not an authority's certificate: {e}")))?;
                }
                roots
            }
            (_, None) => {
                let found = rustls_native_certs::load_native_certs();
                let usable =
                    |root: &CertificateDer<'static>| RootCertStore::empty().add(root.clone()).is_ok();
                found.certs.into_iter().filter(usable).collect()
            }
        };
        let identity = match &tls.client {
            None => None,
            Some(client) => {
                let (chain_pem, key_pem) = (read(&client.cert_file).await?, read(&client.key_file).await?);
                let chain = certificates(&client.cert_file, &chain_pem)?;
                let key = PrivateKeyDer::from_pem_slice(&key_pem)
                    .map_err(|e| bad(&client.key_file, format!("no private key in PEM: {e}")))?;
                Some(Identity { chain, key, chain_pem, key_pem })
            }
        };
        Ok(Some(Self { mode: tls.mode, roots, identity }))
    }

    /// For the stream.
    pub(in crate::source) fn client_config(&self) -> Result<ClientConfig, Error> {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        for root in &self.roots {
            roots.add(root.clone())?;
        }
        let verifier: Arc<dyn ServerCertVerifier> = match self.mode {
            TlsMode::VerifyIdentity => {
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                    .build()
                    .map_err(|e| Error::General(e.to_string()))?
            }
            TlsMode::VerifyCa => Arc::new(Lenient { provider: Arc::clone(&provider), roots: Some(roots) }),
            TlsMode::Required | TlsMode::Disabled => {
                Arc::new(Lenient { provider: Arc::clone(&provider), roots: None })
            }
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        match &self.identity {
            None => Ok(config.with_no_client_auth()),
            Some(own) => config.with_client_auth_cert(own.chain.clone(), own.key.clone_key()),
        }
    }

    /// For the driver that asks queries.
    pub(in crate::source) fn driver_options(&self) -> SslOpts {
        let roots = self.roots.iter().map(|root| root.to_vec().into()).collect();
        let mut options = SslOpts::default().with_root_certs(roots).with_disable_built_in_roots(true);
        match self.mode {
            TlsMode::Required | TlsMode::Disabled => {
                // Nothing is checked, but the driver makes a verifier, which wants a root.
                options = options
                    .with_danger_accept_invalid_certs(true)
                    .with_danger_skip_domain_validation(true)
                    .with_disable_built_in_roots(false);
            }
            TlsMode::VerifyCa => {
                options = options
                    .with_danger_skip_domain_validation(true)
                    .with_danger_tls_hostname_override(Some(ANY_NAME));
            }
            TlsMode::VerifyIdentity => {}
        }
        if let Some(own) = &self.identity {
            let identity = ClientIdentity::new(own.chain_pem.clone().into(), own.key_pem.clone().into());
            options = options.with_client_identity(Some(identity));
        }
        options
    }
}

/// The driver skips a wrong name where the error's text has this word, the name of the error in an older rustls. Today's text
/// has the name that was asked for instead: asking for this one makes the text what the driver looks for. It stands in no
/// other error, and rustls checks the chain before the name (`WebPkiServerVerifier::verify_server_cert`). Should that change,
/// connections fail.
const ANY_NAME: &str = "NotValidForName";

fn bad(path: &Path, reason: impl Into<String>) -> FileError {
    FileError { path: path.display().to_string(), reason: reason.into() }
}

async fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    tokio::fs::read(path).await.map_err(|e| bad(path, e.to_string()))
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(bad(path, "no certificate in PEM")),
        Err(e) => Err(bad(path, format!("not PEM: {e}"))),
    }
}

/// Checks less than rustls does: the chain, or nothing. That the server has the certificate's key is always checked.
#[derive(Debug)]
struct Lenient {
    provider: Arc<CryptoProvider>,
    /// `None`: any certificate.
    roots: Option<RootCertStore>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(roots) = &self.roots {
            verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(certificate)?,
                roots,
                intermediates,
                now,
                self.provider.signature_verification_algorithms.all,
            )?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
