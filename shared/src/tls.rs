//! The cryptography behind every TLS connection of ours, chosen in one place.

use rustls::crypto::{
    CryptoProvider,
    aws_lc_rs::{default_provider, kx_group},
};
use std::sync::Arc;

/// aws-lc-rs, with the order of key exchanges written down.
///
/// The order that a build of rustls has by itself hangs on its feature `prefer-post-quantum`, which any crate of the build can switch on: the hybrid
/// X25519MLKEM768 would then come first, and with its key of 1,216 bytes the first packet of each link and each call's handshake would be two. Here it
/// comes last, as it does without that feature: whoever wants it gets it, at the price of one more round trip.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        kx_groups: vec![kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1, kx_group::X25519MLKEM768],
        ..default_provider()
    })
}

/// Makes it what libraries take that are told of none. The first one that a process makes so stays.
pub fn install() {
    if CryptoProvider::get_default().is_none() {
        // Whoever was quicker has installed the same one.
        CryptoProvider::clone(&provider()).install_default().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    fn first_flight_bytes(provider: Arc<CryptoProvider>) -> usize {
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(config), "plane.nearfield".try_into().unwrap()).unwrap();
        let mut sent = Vec::new();
        client.write_tls(&mut sent).unwrap();
        sent.len()
    }

    #[test]
    fn the_first_flight_of_a_handshake_fits_one_packet_whatever_the_build_prefers() {
        let ours = first_flight_bytes(provider());
        assert!(ours < 600, "{ours} bytes");
        let hybrid = CryptoProvider { kx_groups: vec![kx_group::X25519MLKEM768], ..default_provider() };
        assert!(first_flight_bytes(Arc::new(hybrid)) > 1_200, "what it is held against");
    }
}
