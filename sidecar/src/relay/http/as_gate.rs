// SPDX-License-Identifier: Apache-2.0
//! The gate as the halves of a relay ask it.

use super::lane::Fin;
use super::{End, HttpGate, Rules, Taken};
use crate::relay::Side;
use crate::relay::gate::Gate;

impl<R: Rules> Gate for HttpGate<R> {
    fn kept(&self, from: Side, buffer: &mut [u8]) -> usize {
        self.lane(from).copy_waiting(buffer)
    }

    fn pass(&mut self, from: Side, bytes: &mut [u8]) -> usize {
        let Taken { forward, behind, rest, holds } = self.run(from, bytes);
        let lane = self.lane_mut(from);
        lane.keep(&bytes[rest..]);
        if !behind.is_empty() {
            lane.put_ready(&behind);
        }
        lane.holds = holds;
        self.settle(from);
        forward
    }

    fn unseen(&self, from: Side) -> u64 {
        match from {
            _ if !self.lane(from).is_empty() => 0,
            Side::Server if self.rules.is_limited() => 0,
            Side::Client => self.exchange.client_unseen(),
            Side::Server => self.exchange.server_unseen(),
        }
    }

    fn skip(&mut self, from: Side, bytes: u64) {
        self.rules.body(from, bytes);
        match from {
            Side::Client => self.exchange.client_skip(bytes),
            Side::Server => {
                self.exchange.server_skip(bytes);
                self.count_under_way();
                self.retry_held_client();
            }
        }
        self.settle(from);
    }

    fn fin(&mut self, from: Side) -> bool {
        self.client_fin |= from == Side::Client;
        let lane = self.lane_mut(from);
        if lane.holds {
            lane.fin = Fin::Waits;
            return false;
        }
        lane.forget();
        match from {
            Side::Client => self.exchange.client_fin(),
            Side::Server => self.exchange.server_fin(),
        }
        self.settle(from);
        true
    }

    fn holds(&self, from: Side) -> bool {
        self.lane(from).holds || from == Side::Client && !self.server.is_ready_empty()
    }

    fn has_ready(&self, from: Side) -> bool {
        !self.lane(from).is_ready_empty()
    }

    fn take_ready(&mut self, from: Side) -> Option<Box<[u8]>> {
        let ready = self.lane_mut(from).take_ready()?;
        if from == Side::Server {
            // The client was held until its answers are taken.
            self.retry_held_client();
            self.settle(Side::Client);
            self.stirred = true;
        }
        Some(ready)
    }

    fn take_fin(&mut self, from: Side) -> bool {
        self.lane_mut(from).take_fin()
    }

    fn take_last(&mut self, from: Side) -> bool {
        let lane = self.lane_mut(from);
        lane.is_ready_empty() && lane.take_fin()
    }

    fn cuts_client(&self) -> bool {
        self.end == End::Refused
    }

    fn lingers(&self) -> bool {
        self.is_to_linger()
    }

    fn take_stirred(&mut self) -> bool {
        std::mem::take(&mut self.stirred)
    }
}
