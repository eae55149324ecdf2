//! Devices of other hosts.
//!
//! `hearth lend` runs the tensor operations of others on a device of its host, through Burn's remote backend: over a WebSocket that
//! is not encrypted, for those who know the token. A training that names it as a further device ([`DeviceSpec::Remote`]) keeps a
//! copy of its model there, which computes some micro-batches of every step ([`crate::train`]); the gradients come back over the
//! network.
//!
//! [`DeviceSpec::Remote`]: crate::device::DeviceSpec::Remote

use std::net::{SocketAddr, TcpListener};

use burn::remote::RemoteHost;
use burn::server::{RemoteServer, TokenAuthorizer, WebSocketTransport};
use burn::tensor::Device;

use crate::cli::args::LendArgs;
use crate::device::DeviceSpec;
use crate::{Error, Result};

/// What lender and borrower have to have in their environment.
pub const TOKEN: &str = "HEARTH_DEVICE_TOKEN";
/// Shorter ones can be guessed.
const SHORTEST: usize = 16;

/// The token of the environment.
pub(crate) fn token() -> std::result::Result<String, String> {
    let token = std::env::var(TOKEN).unwrap_or_default();
    if token.len() < SHORTEST {
        return Err(format!(
            "{TOKEN} is not set, or shorter than {SHORTEST} characters: lender and borrower need the same one"
        ));
    }
    Ok(token)
}

/// The device that is lent at an address.
pub(crate) fn borrow(address: SocketAddr) -> std::result::Result<Device, String> {
    let host = RemoteHost::websocket(&format!("ws://{address}")).with_credential(token()?);
    let device = Device::remote_options(&host).init();
    device.map_err(|e| format!("{e}; does `hearth lend` run there, with the same {TOKEN}?"))
}

/// Lends a device until the process is told to end.
///
/// # Errors
/// A device that is not there, no token, an address that cannot be listened at.
pub fn lend(args: &LendArgs) -> Result<()> {
    let fail = |reason: String| Error::Device { device: args.device, reason };
    if matches!(args.device, DeviceSpec::Remote(_)) {
        return Err(fail("a lent device cannot be lent".into()));
    }
    let device = args.device.init()?;
    let authorizer = TokenAuthorizer::new(token().map_err(fail)?).map_err(|e| fail(e.to_string()))?;
    let listen = || {
        let listener = TcpListener::bind(args.listen)?;
        Ok((listener.local_addr()?, listener))
    };
    let (address, listener) =
        listen().map_err(|e: std::io::Error| fail(format!("cannot listen at {}: {e}", args.listen)))?;
    crate::run::say(&format!("lending {} at {address}; Ctrl-C ends it", args.device));
    let server = RemoteServer::new([device]).with_authorizer(authorizer);
    server.serve(WebSocketTransport::from_listener(listener)).map_err(|e| fail(e.to_string()))
}
