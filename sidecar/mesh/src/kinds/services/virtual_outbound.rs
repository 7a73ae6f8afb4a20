// SPDX-License-Identifier: Apache-2.0
//! `VirtualOutbound` of Kuma up to 2.x: names and ports of services by templates over the tags of inbounds.

use crate::context::Context;
use crate::kinds::Resource;
use crate::kinds::proxy_template::Selector;
use crate::model::tags::SERVICE;
use crate::read::part::Part;
use crate::read::{At, fields};
use std::collections::HashSet;

fields! {
    /// Names and ports of services by templates.
    pub struct VirtualOutbound {
        /// The inbounds that get a name, by their tags.
        selectors: required Vec<Selector> = "selectors",
        /// The templates.
        conf: required VirtualOutboundConf = "conf",
    }
}

fields! {
    /// Templates of names and ports.
    pub struct VirtualOutboundConf {
        /// The name, as {{.service}}.mesh.
        host: required String = "host",
        /// The port, as 80 or {{.port}}.
        port: required String = "port",
        /// Tags that the templates use; one of them is kuma.io/service.
        parameters: default Vec<TemplateParameter> = "parameters",
    }
}

fields! {
    /// A tag that templates use.
    pub struct TemplateParameter {
        /// Name in the templates: letters and digits.
        name: required String = "name",
        /// The tag. Default: the name.
        tag_key: optional String = "tagKey",
    }
}

impl TemplateParameter {
    /// Returns the tag, with the default.
    pub fn tag(&self) -> &str {
        self.tag_key.as_deref().filter(|tag| !tag.is_empty()).unwrap_or(&self.name)
    }
}

impl Resource for VirtualOutbound {
    const NAME: &'static str = "VirtualOutbound";

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        if let Ok(selectors) = part.items("selectors") {
            if selectors.is_empty() && part.has("selectors") == Ok(true) {
                part.problem(at, "selectors", "no selector", "at least one");
            }
            for selector in selectors {
                if selector.field("match").is_empty() == Some(true) {
                    selector.problem(at, "match", "no tag", "at least one");
                }
            }
        }
        let conf = part.field("conf");
        for (field, example) in [("host", "{{.service}}.mesh"), ("port", "80")] {
            if conf.get(field) == Ok(Some(String::new())) {
                conf.problem(at, field, "\"\"", format!("a template, as {example:?}"));
            }
        }
        check_parameters(&conf, at);
    }
}

/// Checks the parameters, as Kuma's control plane does.
fn check_parameters(conf: &Part<'_>, at: &mut At<'_>) {
    const TAG: &str = "a tag: letters, digits, '-', '_', '.', ':' and '/'";
    let is_tag = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte))
    };
    let Ok(parameters) = conf.items("parameters") else { return };
    let mut names = HashSet::new();
    let mut service = false;
    for parameter in parameters {
        let name = parameter.get::<String>("name");
        let tag = parameter.get::<String>("tagKey");
        // A tag that is wrong itself may be the service's, as may one that is misspelt.
        service |= !matches!(&tag, Ok(tag) if tag.as_deref() != Some(SERVICE));
        if let Ok(Some(tag)) = tag
            && !tag.is_empty()
            && !is_tag(&tag)
        {
            parameter.problem(at, "tagKey", format!("{tag:?}"), TAG);
        }
        let Ok(Some(name)) = name else { continue };
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            parameter.problem(at, "name", format!("{name:?}"), "letters and digits, as templates use it");
        }
        if !names.insert(name.clone()) {
            parameter.problem(at, "name", format!("{name:?} a second time"), "each name once");
        }
    }
    if !service {
        conf.problem(at, "parameters", "no parameter of kuma.io/service", "one with tagKey: kuma.io/service");
    }
}
