mod inventory;
mod mock;
mod sign;
mod stream;
