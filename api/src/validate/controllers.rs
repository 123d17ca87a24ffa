//! CalicoNodeStatus and KubeControllersConfiguration: Calico's own rules.

use super::{Errors, annotation_keys, labels, names};
use crate::calico::{CalicoNodeStatus, KubeControllersConfiguration};
use crate::field::{FieldError, Path};

/// The longest time between two answers, a day, in seconds.
const LONGEST_PERIOD: u32 = 86_400;

pub(super) fn node_status(status: &CalicoNodeStatus, errors: &mut Errors) {
    let path = Path::root().field("spec");
    let spec = &status.spec;
    if spec.node.is_empty() {
        errors.push(FieldError::required(path.field("node"), "the name of the node that is asked"));
    } else {
        errors.check(path.field("node"), &spec.node, names::dns_subdomain(&spec.node));
    }
    if spec.classes.is_empty() {
        errors.push(FieldError::required(path.field("classes"), "what is asked: Agent, BGP or Routes"));
    }
    for (index, class) in spec.classes.iter().enumerate() {
        if spec.classes[..index].contains(class) {
            errors.push(FieldError::duplicate(path.field("classes").index(index), class));
        }
    }
    match spec.update_period_seconds {
        None => errors
            .push(FieldError::required(path.field("updatePeriodSeconds"), "how often the node answers; 0 is once")),
        Some(seconds) if seconds > LONGEST_PERIOD => {
            let remedy = format!("must be at most {LONGEST_PERIOD}, a day");
            errors.push(FieldError::invalid(path.field("updatePeriodSeconds"), &seconds, &remedy));
        }
        Some(_) => {}
    }
}

pub(super) fn configuration(configuration: &KubeControllersConfiguration, errors: &mut Errors) {
    let name = &configuration.metadata.name;
    if name != "default" && !name.is_empty() {
        let path = Path::root().field("metadata").field("name");
        errors.push(FieldError::invalid(path, name, "must be \"default\": there is one for the whole cluster"));
    }
    let path = Path::root().field("spec").field("controllers").field("node").field("hostEndpoint").field("templates");
    let node = configuration.spec.controllers.node.as_ref();
    let templates = node.and_then(|node| node.host_endpoint.as_ref()).map_or(&[][..], |config| &config.templates);
    for (index, template) in templates.iter().enumerate() {
        let path = path.index(index);
        if let Some(name) = &template.generate_name {
            errors.check(path.field("generateName"), name, names::dns_subdomain(name));
        }
        labels(&template.labels, &path.field("labels"), errors);
        annotation_keys(&template.annotations, &path.field("annotations"), errors);
    }
}
