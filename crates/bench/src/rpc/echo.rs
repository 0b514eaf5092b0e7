//! Calls of the echo service through tonic's generated client, whatever carries them.

use bytes::Bytes;
use polymath_proto::v1::{Payload, echo_client::EchoClient, echo_server::EchoServer};
use polymath_rpc::Parrot;
use polymath_types::Failure;
use tonic::{
    Request,
    body::Body,
    client::GrpcService,
    codegen::{Body as HttpBody, StdError},
};

use super::{CALL, LARGEST, cases::Load, failed, load::Call};

/// A caller of the echo service.
pub(super) struct EchoCaller<T> {
    client: EchoClient<T>,
    request: Payload,
    reply: usize,
}

/// As many callers as the load says, spread over the clients.
pub(super) fn callers<T: Clone>(clients: &[EchoClient<T>], load: Load) -> Vec<EchoCaller<T>> {
    let request = request(load);
    let clients = clients.iter().cycle().take(load.callers);
    clients
        .map(|client| EchoCaller {
            client: client.clone(),
            request: request.clone(),
            reply: load.reply,
        })
        .collect()
}

pub(super) fn request(load: Load) -> Payload {
    let other = load.reply != load.request;
    Payload {
        data: Bytes::from(vec![1; load.request]),
        reply_bytes: other.then(|| u32::try_from(load.reply).unwrap_or(u32::MAX)),
        ..Payload::default()
    }
}

/// A client with room for the largest message.
pub(super) fn client<T>(inner: T) -> EchoClient<T>
where
    T: GrpcService<Body>,
    T::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <T::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
{
    EchoClient::new(inner)
        .max_decoding_message_size(LARGEST)
        .max_encoding_message_size(LARGEST)
}

/// The service, with the same room.
pub(super) fn service() -> EchoServer<Parrot> {
    EchoServer::new(Parrot)
        .max_decoding_message_size(LARGEST)
        .max_encoding_message_size(LARGEST)
}

impl<T> Call for EchoCaller<T>
where
    T: GrpcService<Body> + Clone + Send + 'static,
    T::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <T::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
    T::Future: Send,
{
    async fn call(&mut self) -> Result<(), Failure> {
        let mut request = Request::new(self.request.clone());
        request.set_timeout(CALL);
        let answered = self.client.unary(request).await;
        let reply = answered.map_err(|e| failed("a call", e))?.into_inner();
        check(reply.data.len(), self.reply)
    }
}

/// What is measured must be what was asked for.
pub(super) fn check(got: usize, asked: usize) -> Result<(), Failure> {
    if got == asked {
        return Ok(());
    }
    Err(failed(
        "a call",
        format!("{got} bytes came, {asked} were asked for"),
    ))
}
