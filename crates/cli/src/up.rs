//! `polymath up`: a node in the foreground.

use std::{io::Write, net::SocketAddr, os::unix::process::CommandExt, process::Command};

use polymath_blobs::Store;
use polymath_node::{End, Home, Node, Options, config::Config, experts};
use polymath_proto::v1;
use polymath_types::{ErrorKind, Failure};
use tokio::{
    io::AsyncReadExt,
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use toml::Table;

use crate::{VERSION, args, output, session::Session, views};

/// The API's port unless it is taken or another is named.
const USUAL_API: &str = "127.0.0.1:8420";

pub(crate) async fn run(session: Session, up: args::Up) -> Result<(), Failure> {
    let config = session.begin(flags(&up))?;
    let home = session.home()?;
    let lock = home.lock()?;
    if let Some(invite) = up.invite.as_deref().filter(|i| !i.trim().is_empty()) {
        polymath_node::take_invite(&home, &lock, invite, config.accept_public)?;
    }
    let store = session.store(&config)?;
    polymath_node::allow_open_files();
    let cards = cards(&config, &home, &store).await?;
    let api = bind_api(&config.api.listen).await?;
    let grpc = bind_grpc(&config.api.grpc).await?;
    let node = Node::start(Options {
        home,
        lock,
        config,
        cards,
        store,
        progress: output::progress(&session),
        passing: false,
        engine: None,
    })
    .await?;
    let cancel = CancellationToken::new();
    if let Some(listener) = api {
        let address = listener
            .local_addr()
            .map(|a| a.to_string())
            .unwrap_or_default();
        node.set_gateway(&address);
        let (node, cancel) = (node.clone(), cancel.clone());
        tokio::spawn(async move {
            if let Err(e) = polymath_gateway::serve(node, listener, cancel).await {
                tracing::error!("the HTTP API stopped: {e}");
            }
        });
    }
    if let Some(listener) = grpc {
        node.serve_grpc(listener);
    }
    banner(&session, &node.status());
    let end = tokio::select! {
        end = node.ended() => end,
        signal = interrupted() => { signal?; End::Stopped }
        () = stdin_closed(), if up.until_stdin_closes => End::Stopped,
    };
    cancel.cancel();
    node.shut_down().await;
    match end {
        End::Stopped => Ok(()),
        End::Restart => Err(again()),
        End::RunsTwice => Err(Failure::new(
            ErrorKind::FailedPrecondition,
            "the identity of this home runs on another machine too, where it was started earlier: stop it there, or give this home an identity of its own (delete identity.key and start again)",
        )),
    }
}

/// Becomes a fresh process with the same arguments: nothing of the old mesh can linger.
fn again() -> Failure {
    tracing::info!("the home joined a mesh: starting again in it");
    let program = std::env::current_exe().unwrap_or_else(|_| "polymath".into());
    let error = Command::new(program)
        .args(std::env::args_os().skip(1))
        .exec();
    Failure::new(
        ErrorKind::Internal,
        format!("joined, but cannot start again ({error}): run `polymath up`"),
    )
}

fn flags(up: &args::Up) -> Table {
    let list = |items: &[String]| toml::Value::from(items.to_vec());
    let (mut all, mut net, mut api) = (Table::new(), Table::new(), Table::new());
    let mut limits = Table::new();
    if !up.experts.is_empty() {
        all.insert("experts".into(), list(&up.experts));
    }
    if up.client {
        all.insert("client".into(), true.into());
        all.insert("experts".into(), list(&[]));
    }
    if !up.listen.is_empty() {
        net.insert("listen".into(), list(&up.listen));
    }
    if !up.bootstrap.is_empty() {
        net.insert("bootstrap".into(), list(&up.bootstrap));
    }
    if up.no_local_discovery {
        net.insert("local_discovery".into(), false.into());
    }
    if up.anchor {
        net.insert("anchor".into(), true.into());
    }
    if !up.announce.is_empty() {
        net.insert("announce".into(), list(&up.announce));
    }
    if up.no_upnp {
        net.insert("upnp".into(), false.into());
    }
    if let Some(proxy) = &up.proxy {
        net.insert("proxy".into(), proxy.clone().into());
    }
    if let Some(serve) = &up.serve {
        all.insert("serve".into(), serve.clone().into());
    }
    for (key, size) in [
        ("memory", &up.max_memory),
        ("upload", &up.max_upload),
        ("disk", &up.max_disk),
    ] {
        if let Some(size) = size {
            limits.insert(key.into(), size.clone().into());
        }
    }
    if let Some(most) = up.max_concurrent {
        limits.insert("concurrent".into(), i64::from(most).into());
    }
    if up.accept_public {
        all.insert("accept_public".into(), true.into());
    }
    if let Some(listen) = &up.api {
        api.insert("listen".into(), listen.clone().into());
    }
    if let Some(grpc) = &up.grpc {
        api.insert("grpc".into(), grpc.clone().into());
    }
    for (name, table) in [("net", net), ("api", api), ("limits", limits)] {
        if !table.is_empty() {
            all.insert(name.into(), table.into());
        }
    }
    all
}

/// Cards of the experts to host; models are fetched and files imported behind the open API.
async fn cards(config: &Config, home: &Home, store: &Store) -> Result<Vec<experts::Card>, Failure> {
    let (names, store) = (config.experts.clone(), store.clone());
    let (home, client) = (home.clone(), config.client);
    // Headers of files are read: off the async threads.
    let cards = tokio::task::spawn_blocking(move || {
        let card = |name: &String| experts::prepare(experts::find(name)?, &store);
        let mut cards: Vec<experts::Card> = names.iter().map(card).collect::<Result<_, _>>()?;
        if !client {
            cards.extend(experts::own_cards(&home, &store)?);
        }
        Ok(cards)
    });
    cards
        .await
        .map_err(|e| Failure::new(ErrorKind::Internal, e.to_string()))?
}

async fn bind_grpc(address: &str) -> Result<Option<TcpListener>, Failure> {
    if address == "off" {
        return Ok(None);
    }
    // Checked with the configuration, so that this is an address of this machine.
    let listener = TcpListener::bind(address).await;
    listener.map(Some).map_err(|e| {
        Failure::new(
            ErrorKind::FailedPrecondition,
            format!(
                "cannot open the gRPC API on {address}: {e}: choose another with --grpc HOST:PORT, or --grpc off"
            ),
        )
    })
}

async fn bind_api(listen: &str) -> Result<Option<TcpListener>, Failure> {
    let in_use = |address: &str, e: std::io::Error| {
        Failure::new(
            ErrorKind::FailedPrecondition,
            format!(
                "cannot open the API on {address}: {e}: choose another with --api HOST:PORT, or --api off"
            ),
        )
    };
    match listen {
        "off" => Ok(None),
        "auto" => match TcpListener::bind(USUAL_API).await {
            Ok(listener) => Ok(Some(listener)),
            Err(_) => TcpListener::bind("127.0.0.1:0")
                .await
                .map(Some)
                .map_err(|e| in_use("127.0.0.1", e)),
        },
        address => {
            let parsed: SocketAddr = address.parse().map_err(|_| {
                Failure::new(ErrorKind::Config, format!("'{address}' is not HOST:PORT"))
            })?;
            TcpListener::bind(parsed)
                .await
                .map(Some)
                .map_err(|e| in_use(address, e))
        }
    }
}

fn banner(session: &Session, status: &v1::StatusResponse) {
    let flag = session.home_flag();
    output::print(session, &views::status_json(status), || {
        // An address that others can reach makes the better invitation.
        let outside = status
            .addresses
            .iter()
            .find(|a| !a.contains("/127.0.0.1/") && !a.contains("/::1/"));
        let address = outside.or(status.addresses.first()).cloned();
        let waiting = status.mesh.as_ref().is_some_and(|m| !m.inside);
        let reach = match (&address, status.own_mesh) {
            _ if waiting => "not let in yet, see `polymath mesh show`",
            (None, _) => "asks only, serves nobody",
            (Some(a), true) if a.contains("/127.0.0.1/") => {
                "founded here, open to this machine only (--listen opens it)"
            }
            (Some(_), true) => "founded here",
            (Some(_), false) => "joined",
        };
        let mut lines = vec![
            format!("polymath {VERSION}"),
            format!("peer     {}", status.peer),
            format!("mesh     {} - {reach}", status.mesh_name),
        ];
        if let Some(address) = address {
            let more = status.addresses.len() - 1;
            let plus = if more > 0 {
                format!(" (+{more})")
            } else {
                String::new()
            };
            lines.push(format!(
                "address  {}{plus}",
                address.split("/p2p/").next().unwrap_or_default()
            ));
            lines.push(format!("experts  {}", views::hosted(status)));
            if let Some(whom) = views::answers_no_peer(status) {
                lines.push(format!("serves   {whom}"));
            }
            let closed = status.mesh.as_ref().is_some_and(|m| m.access == "closed");
            lines.push(if closed {
                format!("invite   polymath {flag}mesh invite")
            } else {
                format!("join     polymath join {address}")
            });
        }
        if !status.gateway.is_empty() {
            lines.push(format!("API      http://{}/v1", status.gateway));
        }
        lines.push(format!("ask      polymath {flag}ask \"...\""));
        lines.join("\n")
    });
    let _ = std::io::stdout().flush();
}

async fn interrupted() -> Result<(), Failure> {
    let fail = |e: std::io::Error| {
        Failure::new(
            ErrorKind::Internal,
            format!("signals cannot be watched: {e}"),
        )
    };
    let mut term = signal(SignalKind::terminate()).map_err(fail)?;
    let mut int = signal(SignalKind::interrupt()).map_err(fail)?;
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    // A second signal ends the process at once.
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        std::process::exit(i32::from(ErrorKind::Cancelled.exit_code()));
    });
    Ok(())
}

async fn stdin_closed() {
    let mut stdin = tokio::io::stdin();
    let mut byte = [0];
    while stdin.read(&mut byte).await.is_ok_and(|n| n > 0) {}
}
