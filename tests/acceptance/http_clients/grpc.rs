//! gRPC by tonic.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use prost::Message;
use tonic::client::Grpc;
use tonic::transport::Endpoint;
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

async fn check(url: String) -> Result<()> {
    let channel = Endpoint::from_shared(url)?.connect_timeout(Duration::from_secs(20)).connect().await?;
    let mut grpc = Grpc::new(channel);
    for service in ["", "a", "b"] {
        grpc.ready().await?;
        let request = tonic::Request::new(HealthCheckRequest { service: service.to_owned() });
        let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
        let answer = grpc.unary(request, path, codec).await?.into_inner();
        ensure!(answer.status == SERVING, "{answer:?}");
    }
    Ok(())
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
