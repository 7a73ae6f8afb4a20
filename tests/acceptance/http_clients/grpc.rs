//! gRPC by tonic.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use culvert_tests::Actor;
use prost::Message;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use super::origin::http_2;
use super::{PATIENCE, everywhere};

#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;

/// Calls once on a connection of its own.
async fn call(channel: Channel, service: &str) -> Result<HealthCheckResponse, Status> {
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let request = tonic::Request::new(HealthCheckRequest { service: service.to_owned() });
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    Ok(grpc.unary(request, path, codec).await?.into_inner())
}

async fn connect(url: String) -> Result<Channel> {
    Ok(Endpoint::from_shared(url)?.connect_timeout(Duration::from_secs(20)).connect().await?)
}

async fn check(url: String) -> Result<()> {
    let channel = connect(url).await?;
    for service in ["", "a", "b"] {
        let answer = call(channel.clone(), service).await?;
        ensure!(answer.status == SERVING, "{answer:?}");
    }
    Ok(())
}

/// The status of a call by an actor that gets no message.
pub(crate) fn refusal(actor: Actor<'_>, url: String) -> Result<(Code, String)> {
    actor.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let called = async {
            match call(connect(url).await?, "").await {
                Ok(answer) => bail!("an answer came: {answer:?}"),
                Err(status) => Ok((status.code(), status.message().to_owned())),
            }
        };
        runtime.block_on(async { tokio::time::timeout(PATIENCE, called).await.context("no answer")? })
    })
}

#[test]
fn a_grpc_call_gets_its_message_and_its_status() -> Result<()> {
    everywhere(|world, way| {
        let server = world.serve(way, http_2())?;
        world.client(way).run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                tokio::time::timeout(PATIENCE, check(world.url(way))).await.context("no answer")?
            })
        })?;
        ensure!(server.accepted() == 1, "{} connections", server.accepted());
        Ok(())
    })
}
