"""What decides where the traces of an import leave a doubt: a process that is forked and tried."""
