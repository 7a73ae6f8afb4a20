// SPDX-License-Identifier: Apache-2.0
//! The chart's injection of sidecars: the webhook's servers, the policies, the account of the doctor, the pod of `helm test`.

mod doctor;
mod hook;
pub(super) mod injector;
mod mode;
mod webhook;
