// SPDX-License-Identifier: Apache-2.0
//! Policy mode: what the chart's policies make of a pod, beside what `culvert-install inject` makes of it.

mod again;
mod pods;
mod rendered;
mod shapes;
mod sides;
