// What tables.asl loads from the guest's memory.
DefinitionBlock ("", "SSDT", 2, "ATTACK", "LOADED", 1)
{
    OperationRegion (PORT, SystemIO, 0xE9, 1)
    Field (PORT, ByteAcc, NoLock, Preserve) { OUTB, 8 }
    OUTB = 0x4C // L: loaded
}
