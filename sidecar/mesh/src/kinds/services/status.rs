// SPDX-License-Identifier: Apache-2.0
//! `status` of a service: addresses and names that a control plane or a controller gave it.

use crate::model::host_name::host_name;
use crate::read::{At, Fields, Read, fields, object_schema};
use serde_json::{Value, json};
use std::net::IpAddr;

/// Addresses and names of a service that stand in its document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceStatus {
    /// Addresses that stand for the service, of either family.
    pub vips: Vec<IpAddr>,
    /// Names of the service.
    pub addresses: Vec<StatusAddress>,
}

/// A name of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusAddress {
    /// The name, in lower case and without a dot at its end.
    pub hostname: String,
    /// HostnameGenerator, or Kubernetes for a name of the cluster's DNS.
    pub origin: Option<String>,
    /// Name of the HostnameGenerator.
    pub generator: Option<String>,
}

fields! {
    struct RawVip {
        ip: optional String = "ip",
    }
}

/// The status is written by programs: a field that culvert does not have is no typing error, and is passed over.
impl Read for ServiceStatus {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let before = at.count();
        let mut fields = Fields::of(value, at)?;
        // A MeshExternalService of Kuma has one, the others have a list.
        let one = fields.take::<RawVip>(&["vip"], at);
        let list = fields.take::<Vec<RawVip>>(&["vips"], at).unwrap_or_default();
        let addresses = fields.take::<Vec<RawAddress>>(&["addresses"], at).unwrap_or_default();
        let places = one.map(|vip| ("vip", None, vip)).into_iter();
        let places =
            places.chain(list.into_iter().enumerate().map(|(index, vip)| ("vips", Some(index), vip)));
        let mut vips = Vec::new();
        for (field, index, RawVip { ip }) in places {
            // Kuma writes an empty one before it has chosen an address.
            let Some(text) = ip.filter(|ip| !ip.is_empty()) else { continue };
            let read = |at: &mut At<'_>| at.field("ip", |at| IpAddr::read(&text.into(), at));
            let ip = at.field(field, |at| match index {
                Some(index) => at.item(index, read),
                None => read(at),
            });
            vips.extend(ip.filter(|ip| !vips.contains(ip)));
        }
        let addresses = addresses.into_iter().filter_map(|RawAddress(address)| address).collect();
        (at.count() == before).then_some(Self { vips, addresses })
    }

    fn schema() -> Value {
        let vip = RawVip::schema();
        let address = json!({"type": "object", "properties": {"hostname": {"type": "string"}}});
        let mut schema = object_schema(
            "",
            &[
                (&["vip"], "", false, vip.clone()),
                (&["vips"], "", false, json!({"type": "array", "items": vip})),
                (&["addresses"], "", false, json!({"type": "array", "items": address})),
            ],
        );
        schema["additionalProperties"] = json!(true);
        schema
    }
}

/// A name of a status, `None` for one without a text.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RawAddress(Option<StatusAddress>);

impl Read for RawAddress {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let mut fields = Fields::of(value, at)?;
        let Some(text) = fields.take::<String>(&["hostname"], at).filter(|text| !text.is_empty()) else {
            return Some(Self(None));
        };
        let Some(hostname) = host_name(&text) else {
            return at.field("hostname", |at| at.wrong(&text.into(), "the name of a host"));
        };
        let reference = &value["hostnameGeneratorRef"];
        // Its name was `name` up to 2.8.
        let generator = ["coreName", "name"].into_iter().find_map(|key| reference[key].as_str());
        let origin = fields.take::<String>(&["origin"], at);
        Some(Self(Some(StatusAddress { hostname, origin, generator: generator.map(Into::into) })))
    }

    fn schema() -> Value {
        json!({"type": "object"})
    }
}
