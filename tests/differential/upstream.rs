use std::{collections::HashMap, sync::Mutex};

use crate::plan::Plan;

/// Holds the plans of exchanges and the requests that upstreams received, by name.
#[derive(Debug, Default)]
pub(crate) struct World {
    plans: Mutex<HashMap<String, Plan>>,
    received: Mutex<HashMap<String, Vec<Received>>>,
}

/// Describes a request as an upstream received it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) method: String,
    pub(crate) body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// The body has not come to its end yet.
    Begun,
    Whole(Vec<u8>),
    Broken,
}

impl World {
    /// Tells the upstreams of an exchange.
    pub(crate) fn plan(&self, name: &str, plan: &Plan) {
        let mut plans = self.plans.lock().unwrap();
        plans.insert(name.to_owned(), plan.clone());
    }

    /// Forgets an exchange and returns the requests that came for it.
    pub(crate) fn take(&self, name: &str) -> Vec<Received> {
        self.plans.lock().unwrap().remove(name);
        let received = self.received.lock().unwrap().remove(name);
        received.unwrap_or_default()
    }

    /// Records a request that has come. Returns its exchange and its number in it, or `None` if the
    /// exchange is forgotten.
    pub(crate) fn begin(&self, name: &str, method: &str) -> Option<(Plan, usize)> {
        let plan = self.plans.lock().unwrap().get(name)?.clone();
        let mut received = self.received.lock().unwrap();
        let all = received.entry(name.to_owned()).or_default();
        all.push(Received {
            method: method.to_owned(),
            body: Body::Begun,
        });
        Some((plan, all.len() - 1))
    }

    /// Records how the body of a request ended.
    pub(crate) fn end(&self, name: &str, number: usize, body: Option<Vec<u8>>) {
        let mut received = self.received.lock().unwrap();
        if let Some(one) = received.get_mut(name).and_then(|all| all.get_mut(number)) {
            one.body = body.map_or(Body::Broken, Body::Whole);
        }
    }
}
