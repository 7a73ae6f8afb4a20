mod inventory;
mod mock;
mod stream;
