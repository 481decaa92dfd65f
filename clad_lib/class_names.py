"""Names of classes that the data sets' own files do not carry."""

# The 40 Tiny-ImageNet classes of the study in label order: animals, insects, instruments, structures, vehicles.
TINY_CLASSES = {
    "n02099601": "golden retriever", "n02085620": "Chihuahua", "n02106662": "German shepherd",
    "n02099712": "Labrador retriever", "n02113799": "standard poodle", "n02094433": "Yorkshire terrier",
    "n02125311": "cougar", "n02123394": "Persian cat", "n02268443": "dragonfly", "n02233338": "cockroach",
    "n02206856": "bee", "n02226429": "grasshopper", "n02190166": "fly", "n02236044": "mantis",
    "n02279972": "monarch butterfly", "n02281406": "sulphur butterfly", "n04560804": "water jug",
    "n02823428": "beer bottle", "n04398044": "teapot", "n03983396": "pop bottle", "n02815834": "beaker",
    "n04118538": "rugby ball", "n04540053": "volleyball", "n03937543": "pill bottle", "n04486054": "triumphal arch",
    "n04366367": "suspension bridge", "n03388043": "fountain", "n04532670": "viaduct", "n02788148": "bannister",
    "n04311004": "steel arch bridge", "n03837869": "obelisk", "n02814860": "beacon", "n04146614": "school bus",
    "n04487081": "trolleybus", "n04285008": "sports car", "n02917067": "bullet train", "n03100240": "convertible",
    "n04465501": "tractor", "n03977966": "police van", "n02814533": "beach wagon",
}  # fmt: skip

# The 43 signs of GTSRB in label order.
GTSRB_CLASSES = (
    "Speed limit 20", "Speed limit 30", "Speed limit 50", "Speed limit 60", "Speed limit 70", "Speed limit 80",
    "End of speed limit 80", "Speed limit 100", "Speed limit 120", "No passing", "No passing for vehicles over 3.5t",
    "Right-of-way at next intersection", "Priority road", "Yield", "Stop", "No vehicles",
    "Vehicles over 3.5t prohibited", "No entry", "General caution", "Dangerous curve left", "Dangerous curve right",
    "Double curve", "Bumpy road", "Slippery road", "Road narrows on right", "Road work", "Traffic signals",
    "Pedestrians", "Children crossing", "Bicycles crossing", "Beware of ice/snow", "Wild animals crossing",
    "End of all speed and passing limits", "Turn right ahead", "Turn left ahead", "Ahead only",
    "Go straight or right", "Go straight or left", "Keep right", "Keep left", "Roundabout mandatory",
    "End of no passing", "End of no passing for vehicles over 3.5t",
)  # fmt: skip
