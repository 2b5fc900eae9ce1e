//! The gateway beside nginx and `HAProxy`: the same bytes of a client to each of them, with the same upstream behind,
//! and no input that they split into other requests than the gateway does (SPEC §7).

mod compare;
mod inputs;
mod peers;
mod random;
mod table;
mod upstream;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use evergrant_core::gateway::{Route, Rules};
use evergrant_core::provider::Profile;
use evergrant_server::gateway::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::gateway::fixture::{Change, Rig, soon};
use compare::Compared;
use inputs::Input;
use peers::Peer;
use upstream::{Record, Seen, Upstream};

/// By this field the upstreams of nginx and `HAProxy` tell which client a request is of: each sets it.
const CLIENT_FIELD: &str = "x-client-address";
/// Clients of one gateway at a time.
const CLIENTS: usize = 64;
/// A gateway that waits for more of a request, or for another one, gives up behind that.
const GIVES_UP: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_input_is_split_otherwise_than_by_nginx_and_haproxy() {
    let inputs: Arc<[Input]> = table::inputs().into_iter().chain(random::inputs()).collect();
    let limits = Limits { head: GIVES_UP, idle: GIVES_UP, client: GIVES_UP, ..Limits::default() };
    let mut rig = Rig::with(Change { limits, threads: 2, ..Change::default() }).await;
    // What is asked of Evergrant itself is answered with an error.
    rig.own_routes = None;
    let key = rig.key.clone();
    let nginx = Peer::nginx(Upstream::bind(by_client).await).await;
    let haproxy = Peer::haproxy(Upstream::bind(by_client).await).await;
    let Rig { gateway, upstream, .. } = rig;
    let upstream = Upstream::on(upstream, by_case);
    tokio::join!(
        send_all(&inputs, &key, "Evergrant", gateway.address()),
        send_all(&inputs, &key, "nginx", nginx.address),
        send_all(&inputs, &key, "HAProxy", haproxy.address)
    );
    soon("the gateway's end", gateway.end()).await;
    let (ours, nginx, haproxy) = tokio::join!(upstream.end(), nginx.end(), haproxy.end());
    holds(&inputs, &key, &Records { ours, nginx, haproxy });
}

/// What reached the upstream of each.
struct Records {
    ours: Record,
    nginx: Record,
    haproxy: Record,
}

fn holds(inputs: &[Input], key: &str, records: &Records) {
    let rules = Profile::claude().gateway.unwrap();
    let mut wrong = Vec::new();
    let mut agreed = 0;
    for (number, input) in inputs.iter().enumerate() {
        let of = |record: &Record| record.get(&number).cloned().unwrap_or_default();
        let of_peer = |record: &Record| {
            let mut requests = of(record);
            requests.retain(|seen| is_for_the_provider(&rules, key, seen));
            requests
        };
        let (ours, nginx, haproxy) = (of(&records.ours), of_peer(&records.nginx), of_peer(&records.haproxy));
        if ours.iter().flat_map(|seen| &seen.fields).any(|field| field.contains(key)) {
            wrong.push(format!("{}: the caller key reaches the provider: {ours:#?}", input.name));
        }
        if ours.iter().any(|seen| seen.unclear) {
            wrong.push(format!("{}: no end is to be made out: {ours:#?}", input.name));
        }
        let compared = compare::compare(&ours, &nginx, &haproxy);
        agreed += usize::from(compared == Compared::Same && !ours.is_empty());
        if let Err(why) = input.judge(compared, &ours) {
            wrong.push(format!(
                "{}: {why}\n{}\nEvergrant: {ours:#?}\nnginx: {nginx:#?}\nHAProxy: {haproxy:#?}",
                input.name,
                input.bytes("KEY").escape_ascii()
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {} inputs: {}", wrong.len(), inputs.len(), wrong.join("\n\n"));
    // The suite would be blind if hardly anything got through.
    assert!(agreed * 2 > inputs.len(), "only {agreed} of {} inputs passed alike", inputs.len());
}

/// Evergrant answers the rest by itself, and goes on with the next request of the connection.
fn is_for_the_provider(rules: &Rules, key: &str, seen: &Seen) -> bool {
    let path = seen.target.split('?').next().unwrap_or_default();
    matches!(rules.route(&seen.method, path), Route::Forwarded(..))
        && seen.values("x-cm-api-key").contains(&key)
}

/// Evergrant passes the input's own field on; a request without it could not come from here.
fn by_case(seen: &Seen) -> Option<usize> {
    seen.values(inputs::CASE_FIELD).first()?.parse().ok()
}

fn by_client(seen: &Seen) -> Option<usize> {
    let address: Ipv4Addr = seen.values(CLIENT_FIELD).first()?.parse().ok()?;
    // What looks whether the server is there sends nothing, and so is never seen here.
    let [127, 77, high, low] = address.octets() else { return None };
    Some(usize::from(u16::from_be_bytes([high, low])))
}

/// A loopback address of its own for the client of each input.
fn client_address(number: usize) -> SocketAddr {
    let [high, low] = u16::try_from(number).unwrap().to_be_bytes();
    (Ipv4Addr::new(127, 77, high, low), 0).into()
}

async fn send_all(inputs: &Arc<[Input]>, key: &str, name: &'static str, gateway: SocketAddr) {
    let free = Arc::new(Semaphore::new(CLIENTS));
    let mut clients = JoinSet::new();
    for (number, input) in inputs.iter().enumerate() {
        let turn = free.clone().acquire_owned().await.unwrap();
        let bytes = input.bytes(&format!("x-cm-api-key: {key}\r\n{}: {number}\r\n", inputs::CASE_FIELD));
        let cut = input.cut;
        let what = format!("{name} ends the connection of the input {:?}", input.name);
        clients.spawn(async move {
            soon(&what, client(number, &bytes, cut, gateway)).await;
            drop(turn);
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
}

/// Sends the input, and reads until the gateway ends the connection: with the last answer, or when it waits in vain.
async fn client(number: usize, bytes: &[u8], cut: usize, gateway: SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(client_address(number)).unwrap();
    let mut stream = socket.connect(gateway).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut read, mut write) = stream.split();
    let sending = async {
        for piece in bytes.chunks(cut) {
            // Whoever has refused already takes no more.
            if write.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let reading = async {
        let mut answers = Vec::new();
        // An end that is an error is an end too.
        let _ = read.read_to_end(&mut answers).await;
    };
    tokio::join!(sending, reading);
}
