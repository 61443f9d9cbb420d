//! Every way past HTTP to an address: connect, listen, send a datagram, ask for a name.

use std::net::SocketAddrV4;

use serde_json::{Value, json};
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::ip_name_lookup::resolve_addresses;
use wasip2::sockets::network::{ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress};
use wasip2::sockets::tcp_create_socket::create_tcp_socket;
use wasip2::sockets::udp::OutgoingDatagram;
use wasip2::sockets::udp_create_socket::create_udp_socket;

/// What came of each, "ok" or the error's name.
pub(crate) fn attempts(address: &str) -> Value {
    let Ok(address) = address.parse().map(socket_address) else { return json!({}) };
    let own = socket_address(SocketAddrV4::new([127, 0, 0, 1].into(), 0));
    json!({
        "tcp_connect": outcome(tcp_connect(address)),
        "tcp_listen": outcome(tcp_listen(own)),
        "udp_bind": outcome(udp_bind(own)),
        "udp_connect": outcome(udp_connect(own, address)),
        "udp_send": outcome(udp_send(own, address)),
        "name_lookup": outcome(name_lookup("localhost")),
        "address_lookup": outcome(name_lookup("127.0.0.1")),
    })
}

fn outcome(attempt: Result<(), ErrorCode>) -> String {
    attempt.map_or_else(|error| error.name().to_owned(), |()| "ok".to_owned())
}

fn socket_address(address: SocketAddrV4) -> IpSocketAddress {
    IpSocketAddress::Ipv4(Ipv4SocketAddress { port: address.port(), address: address.ip().octets().into() })
}

fn tcp_connect(address: IpSocketAddress) -> Result<(), ErrorCode> {
    let socket = create_tcp_socket(IpAddressFamily::Ipv4)?;
    socket.start_connect(&instance_network(), address)?;
    socket.subscribe().block();
    socket.finish_connect().map(drop)
}

fn tcp_listen(address: IpSocketAddress) -> Result<(), ErrorCode> {
    let socket = create_tcp_socket(IpAddressFamily::Ipv4)?;
    socket.start_bind(&instance_network(), address)?;
    socket.subscribe().block();
    socket.finish_bind()?;
    socket.start_listen()?;
    socket.subscribe().block();
    socket.finish_listen()
}

fn udp_bind(address: IpSocketAddress) -> Result<(), ErrorCode> {
    let socket = create_udp_socket(IpAddressFamily::Ipv4)?;
    socket.start_bind(&instance_network(), address)?;
    socket.subscribe().block();
    socket.finish_bind()
}

fn udp_connect(own: IpSocketAddress, address: IpSocketAddress) -> Result<(), ErrorCode> {
    let socket = create_udp_socket(IpAddressFamily::Ipv4)?;
    // Whether it may bind is the attempt above; this one goes on without.
    socket.start_bind(&instance_network(), own).and_then(|()| socket.finish_bind()).unwrap_or_default();
    socket.stream(Some(address)).map(drop)
}

fn udp_send(own: IpSocketAddress, address: IpSocketAddress) -> Result<(), ErrorCode> {
    let socket = create_udp_socket(IpAddressFamily::Ipv4)?;
    socket.start_bind(&instance_network(), own).and_then(|()| socket.finish_bind()).unwrap_or_default();
    let (_incoming, outgoing) = socket.stream(None)?;
    outgoing.check_send()?;
    outgoing.send(&[OutgoingDatagram { data: b"42".to_vec(), remote_address: Some(address) }]).map(drop)
}

/// Succeeds where one address comes.
fn name_lookup(name: &str) -> Result<(), ErrorCode> {
    let addresses = resolve_addresses(&instance_network(), name)?;
    loop {
        match addresses.resolve_next_address() {
            Err(ErrorCode::WouldBlock) => addresses.subscribe().block(),
            Ok(Some(IpAddress::Ipv4(_) | IpAddress::Ipv6(_))) => return Ok(()),
            Ok(None) => return Err(ErrorCode::NameUnresolvable),
            Err(error) => return Err(error),
        }
    }
}
