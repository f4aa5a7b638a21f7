// SPDX-License-Identifier: MIT OR GPL-2.0
// A driver for the test card (docs/test-card.md): when it is bound, it lets each vector interrupt and the card's DMA engine
// copy and fill memory, and says of each step whether the card did so. Without an alias, so that it is loaded by name only.
#include <linux/completion.h>
#include <linux/crc32.h>
#include <linux/dma-mapping.h>
#include <linux/interrupt.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/random.h>

enum { ID = 0x00, SCRATCH = 0x04, RAISE = 0x08, PIN = 0x0c, DMA_SOURCE = 0x20, DMA_TARGET = 0x28, DMA_LENGTH = 0x30 };
enum { DMA_VALUE = 0x34, DMA_COMMAND = 0x38, DMA_STATUS = 0x3c, DMA_CRC = 0x40, DMA_VECTOR = 0x48 };
enum { COPY = 1, FILL = 2, DONE = 2 };
#define CARD_ID 0x64726163
#define MOST_VECTORS 32
#define BYTES (64 << 10)
// Software emulation stands still for seconds now and then.
#define PATIENCE (10 * HZ)

struct card;
struct vector {
	struct card *card;
	struct completion came;
};
struct card {
	struct pci_dev *pdev;
	void __iomem *regs;
	int count;
	bool has_pin;
	struct vector vectors[MOST_VECTORS];
};

static irqreturn_t interrupted(int irq, void *data)
{
	struct vector *vector = data;
	struct card *card = vector->card;

	if (card->has_pin) {
		if (ioread32(card->regs + PIN) != 1)
			return IRQ_NONE;
		iowrite32(0, card->regs + PIN);
	}
	complete(&vector->came);
	return IRQ_HANDLED;
}

static void say(struct card *card, const char *what, bool is_ok)
{
	dev_info(&card->pdev->dev, "%s %s\n", what, is_ok ? "ok" : "failed");
}

static bool arrives(struct card *card, int number)
{
	return wait_for_completion_timeout(&card->vectors[number].came, PATIENCE) != 0;
}

// Each vector once, by its own interrupt.
static bool each_arrives(struct card *card)
{
	int i;

	for (i = 0; i < card->count; i++) {
		iowrite32(i, card->regs + RAISE);
		if (arrives(card, i))
			continue;
		dev_info(&card->pdev->dev, "interrupt %d of %d did not arrive\n", i, card->count);
		return false;
	}
	return true;
}

static bool transfer(struct card *card, u32 command, dma_addr_t source, dma_addr_t target)
{
	int last = card->count - 1;

	iowrite32(lower_32_bits(source), card->regs + DMA_SOURCE);
	iowrite32(upper_32_bits(source), card->regs + DMA_SOURCE + 4);
	iowrite32(lower_32_bits(target), card->regs + DMA_TARGET);
	iowrite32(upper_32_bits(target), card->regs + DMA_TARGET + 4);
	iowrite32(BYTES, card->regs + DMA_LENGTH);
	iowrite32(0xa5, card->regs + DMA_VALUE);
	iowrite32(last, card->regs + DMA_VECTOR);
	iowrite32(command, card->regs + DMA_COMMAND);
	return arrives(card, last) && ioread32(card->regs + DMA_STATUS) == DONE;
}

static u32 checksum(const void *data)
{
	return crc32_le(~0, data, BYTES) ^ ~0;
}

static void move(struct card *card)
{
	struct device *dev = &card->pdev->dev;
	dma_addr_t source, target;
	u8 *from = dmam_alloc_coherent(dev, BYTES, &source, GFP_KERNEL);
	u8 *to = dmam_alloc_coherent(dev, BYTES, &target, GFP_KERNEL);

	if (!from || !to)
		return;
	get_random_bytes(from, BYTES);
	say(card, "copy", transfer(card, COPY, source, target) && memcmp(from, to, BYTES) == 0 &&
			  ioread32(card->regs + DMA_CRC) == checksum(from));
	say(card, "fill", transfer(card, FILL, source, target) && memchr_inv(to, 0xa5, BYTES) == NULL &&
			  ioread32(card->regs + DMA_CRC) == checksum(to));
}

static int wire(struct card *card)
{
	struct pci_dev *pdev = card->pdev;
	int i, error;

	card->count = pci_alloc_irq_vectors(pdev, 1, MOST_VECTORS, PCI_IRQ_ALL_TYPES);
	if (card->count < 0)
		return card->count;
	card->has_pin = !pdev->msix_enabled && !pdev->msi_enabled;
	for (i = 0; i < card->count; i++) {
		struct vector *vector = &card->vectors[i];

		vector->card = card;
		init_completion(&vector->came);
		error = request_irq(pci_irq_vector(pdev, i), interrupted, IRQF_SHARED, "testcard", vector);
		if (error)
			goto undo;
	}
	dev_info(&pdev->dev, "%d by %s\n", card->count, pdev->msix_enabled ? "MSI-X" : pdev->msi_enabled ? "MSI" : "INTx");
	return 0;
undo:
	while (i-- > 0)
		free_irq(pci_irq_vector(pdev, i), &card->vectors[i]);
	pci_free_irq_vectors(pdev);
	return error;
}

static void unwire(struct card *card)
{
	int i;

	for (i = 0; i < card->count; i++)
		free_irq(pci_irq_vector(card->pdev, i), &card->vectors[i]);
	pci_free_irq_vectors(card->pdev);
}

static int probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct card *card = devm_kzalloc(&pdev->dev, sizeof(*card), GFP_KERNEL);
	int error;

	if (!card)
		return -ENOMEM;
	card->pdev = pdev;
	error = pcim_enable_device(pdev);
	if (!error)
		error = pcim_iomap_regions(pdev, BIT(0), "testcard");
	if (!error)
		error = dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(64));
	if (error)
		goto failed;
	pci_set_master(pdev);
	card->regs = pcim_iomap_table(pdev)[0];
	// What a reset clears, and the last user may have left.
	say(card, "clean", ioread32(card->regs + SCRATCH) == 0);
	say(card, "registers", ioread32(card->regs + ID) == CARD_ID);
	if (ioread32(card->regs + ID) != CARD_ID) {
		dev_info(&pdev->dev, "it reads 0x%x\n", ioread32(card->regs + ID));
		return -ENODEV;
	}
	iowrite32(0x1234, card->regs + SCRATCH);
	error = wire(card);
	if (error)
		goto failed;
	pci_set_drvdata(pdev, card);
	say(card, "interrupts", each_arrives(card));
	move(card);
	return 0;
failed:
	dev_info(&pdev->dev, "start failed: %d\n", error);
	return error;
}

static void remove(struct pci_dev *pdev)
{
	struct card *card = pci_get_drvdata(pdev);

	unwire(card);
}

static const struct pci_device_id ids[] = { { PCI_DEVICE(0x1234, 0x7463) }, {} };
static struct pci_driver card_driver = { .name = "testcard", .id_table = ids, .probe = probe, .remove = remove };
module_pci_driver(card_driver);
MODULE_DESCRIPTION("Tests a test card");
MODULE_LICENSE("Dual MIT/GPL");
